"""Every ceremony with the root's key in a PKCS#11 token (SoftHSM2), beside pkcs11-tool and openssl."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from fioctl_rotate.est.client import build_csr, decode_certificates
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.hsm import TokenKeyStore
from fioctl_rotate.pki.hsm_session import Token as PkiToken
from fioctl_rotate.pki.keys import generate_key, private_key_pem
from fioctl_rotate.tls import client_context
from tests.commandline import Cli
from tests.making import (
    CN,
    DAY,
    FACTORY,
    NOW,
    OU,
    P256,
    ROOT_KEY,
    certificate,
    csr,
    pem,
    subject,
)
from tests.pki.softhsm import MODULE, PIN, Token, needs_softhsm
from tests.typed import blocks, calls

pytestmark = needs_softhsm


def verify(root: Path, *files: Path) -> None:
    done = subprocess.run(
        ["openssl", "verify", "-CAfile", root, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_command_of_the_readme(
    token: Token, cli: Cli, factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(factory))
    monkeypatch.setenv("FIOCTL_FACTORY", FACTORY)
    assert cli("keys", "ca", "create", Path.home() / "acme-pki", *token.flags).code == 0
    block = blocks()["The root key 3"]
    # Where the module is differs; the label is this test's own.
    typed = re.sub(r"--hsm-module \S+ --hsm-token-label acme", shlex.join(token.flags), block)
    [call] = calls(typed, tmp_path, tmp_path / "calls")
    assert call.words[-4:] == token.flags
    done = cli(*call.words)
    assert (done.code, "CERTIFICATE" in done.out) == (0, True), done.err


def test_all_ceremonies_with_a_key_made_in_the_token(
    token: Token, cli: Cli, factory: Path, tmp_path: Path
) -> None:
    directory, root = tmp_path / "pki", tmp_path / "pki" / "factory_ca.pem"
    at = ["--mock", factory, "-f", FACTORY]

    created = cli("keys", "ca", "create", directory, *token.flags, *at)
    assert created.code == 0, created.err
    assert not (directory / "factory_ca.key").exists()
    verify(root, directory / "local-ca.pem", directory / "online-crt", directory / "tls-crt")
    listed = token.tool("--list-objects", "--type", "privkey").decode()
    assert "never extractable" in listed
    assert "sensitive" in listed

    authorized = cli("keys", "est", "authorize", directory, *token.flags, *at)
    assert authorized.code == 0, authorized.err
    (tmp_path / "est.pem").write_text(authorized.out)

    added = cli("keys", "ca", "add-device-ca", directory, "--online-ca", "--local-ca", *token.flags, *at)
    assert added.code == 1, "local-ca.pem is there already"
    more = ("--online-ca", "--local-ca", "--local-ca-filename", "second.pem")
    added = cli("keys", "ca", "add-device-ca", directory, *more, *token.flags, *at)
    assert added.code == 0, added.err

    paired = cli("keys", "est", "keypair", "own.example.com", directory, *token.flags)
    assert paired.code == 0, paired.err

    (tmp_path / "a.csr").write_bytes(pem(csr(name=subject((CN, "a"), (OU, FACTORY)))))
    signed = cli("keys", "ca", "sign", tmp_path / "a.csr", "--pki-dir", directory, *token.flags)
    assert signed.code == 0, signed.err
    (tmp_path / "a.pem").write_text(signed.out)

    verify(root, tmp_path / "est.pem", tmp_path / "a.pem", directory / "second.pem", directory / "online-crt")
    verify(root, directory / "est-tls.pem")
    checked = cli("keys", "check", directory, *token.flags, *at)
    assert checked.code == 0, checked.out

    again = cli("keys", "ca", "create", directory, *token.flags, *at)
    assert again.code == 0
    assert "there already" in again.out


def test_a_key_that_pkcs11_tool_made_is_found_by_its_label(
    token: Token, cli: Cli, factory: Path, tmp_path: Path
) -> None:
    token.generate(label="other", id="01")
    token.generate(id="31")

    created = cli("keys", "ca", "create", tmp_path / "pki", *token.flags, "--mock", factory, "-f", FACTORY)

    assert created.code == 0, created.err
    assert f"using the key that is there: key root-ca in token {token.label}" in created.err
    root = x509.load_pem_x509_certificate((tmp_path / "pki" / "factory_ca.pem").read_bytes())
    spki = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert load_der_public_key(token.public_key()) == root.public_key(), spki
    verify(tmp_path / "pki" / "factory_ca.pem", tmp_path / "pki" / "tls-crt")


@pytest.mark.parametrize("way", ["file", "flag"])
def test_the_pin_is_taken_from(
    way: str, adopted: tuple[Token, Path], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, directory = adopted
    monkeypatch.delenv("FIOCTL_ROTATE_HSM_PIN")
    (tmp_path / "pin").write_text(f"{PIN}\n")
    flags = {"file": ["--hsm-pin-file", str(tmp_path / "pin")], "flag": ["--hsm-pin", PIN]}[way]
    result = cli("keys", "check", directory, "--offline", *token.flags, *flags)
    assert result.code == 0, result.out + result.err
    assert ("warning: --hsm-pin shows the PIN in the process list" in result.err) == (way == "flag")
    assert PIN not in result.out + result.err


def test_two_keys_in_one_token_are_one_login(
    token: Token, cli: Cli, factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ["--mock", factory, "-f", FACTORY]
    assert cli("keys", "ca", "create", tmp_path / "pki", *token.flags, *at).code == 0
    monkeypatch.delenv("FIOCTL_ROTATE_HSM_PIN")
    second = ("--local-ca", "--local-ca-filename", "two.pem", "--local-ca-hsm-label", "two")
    flags = (*token.flags, "--hsm-pin", PIN)
    added = cli("keys", "ca", "add-device-ca", tmp_path / "pki", *second, *flags, *at)
    assert added.code == 0, added.err
    assert added.err.count("--hsm-pin shows the PIN") == 1


def test_without_a_pin_in_a_pipe(token: Token, cli: Cli, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIOCTL_ROTATE_HSM_PIN")
    result = cli("keys", "est", "keypair", "a.example.com", pki, *token.flags)
    assert result.code == 2
    assert f"error: the PIN of token {token.label} is not known" in result.err
    monkeypatch.setenv("FIOCTL_ROTATE_HSM_PIN", "")
    result = cli("keys", "est", "keypair", "a.example.com", pki, *token.flags)
    assert result.code == 2
    assert "FIOCTL_ROTATE_HSM_PIN is set but empty" in result.err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--hsm-module", str(MODULE)], "--hsm-module and --hsm-token-label are needed together"),
        (["--hsm-token-label", "a"], "--hsm-module and --hsm-token-label are needed together"),
        (["--hsm-pin", "1"], "a PIN without an HSM"),
    ],
)
def test_half_a_token_is_wrong_usage(flags: list[str], line: str, cli: Cli, pki: Path) -> None:
    result = cli("keys", "check", pki, "--offline", *flags)
    assert (result.code, result.out) == (2, "")
    assert line in result.err


def test_a_token_that_cannot_be_used(token: Token, cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "a.csr"
    asked.write_bytes(pem(csr()))

    def sign(*flags: object) -> str:
        result = cli("keys", "ca", "sign", asked, "--pki-dir", pki, *flags)
        assert (result.code, result.out) == (1, "")
        assert str(result.err).startswith("error: ")
        return str(result.err)

    assert "token nowhere: expected one such token, got none" in sign(
        "--hsm-module", str(MODULE), "--hsm-token-label", "nowhere"
    )
    assert "cannot open shared object file" in sign(
        "--hsm-module", tmp_path / "no.so", "--hsm-token-label", "a"
    )
    assert f"key root-ca in token {token.label} is missing" in sign(*token.flags)


def test_a_wrong_pin_is_an_error(token: Token, pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: a login is the process's, so another test's would let this one in."""
    monkeypatch.setenv("FIOCTL_ROTATE_HSM_PIN", "7654321")
    done = subprocess.run(
        [sys.executable, "-m", "fioctl_rotate", "keys", "est", "keypair", "a.example.com", pki, *token.flags],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"error: token {token.label}: the PIN is wrong" in done.stderr
    assert "7654321" not in done.stderr


def test_two_keys_with_the_label_are_refused(token: Token, cli: Cli, factory: Path, tmp_path: Path) -> None:
    token.generate(id="01")
    token.generate(id="02")
    result = cli("keys", "ca", "create", tmp_path / "pki", *token.flags, "--mock", factory, "-f", FACTORY)
    assert result.code == 1
    assert "expected one private key and its public key, got 2 and 2" in result.err


def test_half_a_key_is_refused(token: Token, cli: Cli, factory: Path, tmp_path: Path) -> None:
    token.generate()
    token.tool("--delete-object", "--type", "pubkey", "--label", "root-ca")
    result = cli("keys", "ca", "create", tmp_path / "pki", *token.flags, "--mock", factory, "-f", FACTORY)
    assert result.code == 1
    assert "has no public key in the token" in result.err


@pytest.mark.parametrize("kind", ["RSA:2048", "EC:secp384r1"])
def test_another_kind_of_key_is_refused(
    kind: str, token: Token, cli: Cli, factory: Path, tmp_path: Path
) -> None:
    token.generate(kind=kind)
    result = cli("keys", "ca", "create", tmp_path / "pki", *token.flags, "--mock", factory, "-f", FACTORY)
    assert result.code == 1
    assert "expected an EC P-256 key, got" in result.err


def test_a_certificate_of_another_key_is_refused(
    adopted: tuple[Token, Path], cli: Cli, factory: Path
) -> None:
    token, directory = adopted
    (directory / "factory_ca.pem").write_bytes(pem(certificate(key=ROOT_KEY)))
    result = cli("keys", "ca", "create", directory, *token.flags, "--mock", factory, "-f", FACTORY)
    assert result.code == 5
    assert f"is not the certificate of key root-ca in token {token.label}" in result.err


def test_without_python_pkcs11_the_extra_is_named(
    token: Token, cli: Cli, pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    result = cli("keys", "est", "keypair", "a.example.com", pki, *token.flags)
    assert result.code == 1
    assert result.err == (
        "error: keys in an HSM need python-pkcs11, which is not installed\n"
        "hint: install python-pkcs11, which the extra `hsm` of this package brings\n"
    )


@pytest.fixture
def est_ca(token: Token, cli: Cli, factory: Path, tmp_path: Path) -> Path:
    """A PKI directory whose root's key and EST CA's key are both in the token."""
    directory, at = tmp_path / "pki", ["--mock", factory, "-f", FACTORY]
    assert cli("keys", "ca", "create", directory, "--no-local-ca", *token.flags, *at).code == 0
    local = ("--local-ca", "--local-ca-filename", "est-ca.pem", "--local-ca-hsm-label", "local-ca")
    added = cli("keys", "ca", "add-device-ca", directory, *local, *token.flags, *at)
    assert added.code == 0, added.err
    assert cli("est", "keypair", "localhost", directory, *token.flags).code == 0
    return directory


@pytest.mark.parametrize("workers", [1, 2])  # each a process with a session of its own
def test_an_est_server_signs_with_a_key_in_the_token(
    workers: int, token: Token, est_ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = x509.load_pem_x509_certificate((est_ca / "est-ca.pem").read_bytes())
    (tmp_path / "pin").write_text(PIN)
    monkeypatch.delenv("FIOCTL_ROTATE_HSM_PIN")
    command = [
        *(sys.executable, "-m", "fioctl_rotate", "est", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--root-cert", est_ca / "factory_ca.pem", "--ca-cert", est_ca / "est-ca.pem"),
        *("--tls-cert", est_ca / "est-tls.pem", "--tls-key", est_ca / "est-tls.key"),
        *("--workers", str(workers), *token.flags, "--hsm-pin-file", tmp_path / "pin"),
    ]
    with subprocess.Popen(
        [str(argument) for argument in command], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            url = server.stderr.readline().removeprefix("EST server at ").split(";")[0]
            current = certificates.sign_device(
                subject((CN, "uuid-1"), (OU, FACTORY)),
                P256.public_key(),
                ca,
                _token_key(token, "local-ca"),
                now=NOW,
                lifetime=DAY,
            )
            new = reenroll(url.replace("127.0.0.1", "localhost"), est_ca, current, tmp_path)
            new.verify_directly_issued_by(ca)
            assert new.subject == current.subject
        finally:
            server.terminate()


def _token_key(token: Token, label: str) -> Any:
    key = TokenKeyStore(PkiToken(str(MODULE), token.label, lambda: PIN), label).load()
    assert key is not None
    return key


def reenroll(url: str, pki: Path, current: x509.Certificate, tmp_path: Path) -> x509.Certificate:
    """What a device does: simplereenroll with a new key, over mutual TLS."""
    files = tmp_path / "client.pem", tmp_path / "client.key"
    files[0].write_bytes(pem(current))
    files[1].write_bytes(private_key_pem(P256))
    context = client_context((pki / "factory_ca.pem").read_text(), cert=files[0], key=files[1])
    with httpx.Client(verify=context, transport=httpx.HTTPTransport(verify=context, retries=20)) as client:
        answer = client.post(
            f"{url}/simplereenroll",
            content=build_csr(generate_key(), current),
            headers={"Content-Type": "application/pkcs10"},
        )
    assert answer.status_code == 201, answer.text
    (new,) = decode_certificates(answer.content)
    return new
