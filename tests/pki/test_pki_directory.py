"""A PKI directory that is not what it should be: each fault is reported with its file, and nothing is signed."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from fioctl_rotate.pki.keys import generate_key, private_key_pem
from tests.commandline import Cli
from tests.making import (
    CA,
    CN,
    DAY,
    FACTORY,
    LEAF,
    NOW,
    OU,
    P256,
    ROOT,
    ROOT_KEY,
    SERVER,
    armored,
    certificate,
    csr,
    der,
    dns,
    pem,
    replaced,
    subject,
    usage,
)

P384 = ec.generate_private_key(ec.SECP384R1())
OTHER = generate_key()


def key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, passphrase: bytes | None = None) -> bytes:
    """PKCS#8, encrypted where there is a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
    )


def write(path: Path, data: bytes, mode: int = 0o400) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


ROOTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "expired": (
        lambda: pem(certificate(begins=NOW - 9 * DAY, ends=NOW - DAY)),
        "validity: expired at ",
    ),
    "not valid yet": (lambda: pem(certificate(begins=NOW + DAY)), "validity: begins at "),
    "not a CA": (
        lambda: pem(certificate(extensions=LEAF)),
        "basic constraints: expected CA:TRUE for a root",
    ),
    "CA:FALSE": (
        lambda: pem(certificate(extensions=[x509.BasicConstraints(ca=False, path_length=None)])),
        "basic constraints: expected CA:TRUE",
    ),
    "no room below": (
        lambda: pem(certificate(extensions=[x509.BasicConstraints(ca=True, path_length=0)])),
        "basic constraints: path length 0, which allows no device CA below",
    ),
    "may not sign": (
        lambda: pem(certificate(extensions=[CA[0], usage("digital_signature")])),
        "key usage: keyCertSign is missing",
    ),
    "no OU": (
        lambda: pem(certificate(name=subject((CN, "Factory-CA")), issuer=subject((CN, "Factory-CA")))),
        "subject OU: expected one, got none",
    ),
    "two OUs": (
        lambda: pem(certificate(name=subject((CN, "R"), (OU, FACTORY), (OU, "b")))),
        "subject OU: expected one, got 2",
    ),
    "two CNs": (
        lambda: pem(certificate(name=subject((CN, "R"), (CN, "R"), (OU, FACTORY)))),
        "CN: expected one, got 2",
    ),
    "RSA": (
        lambda: pem(certificate(key=rsa.generate_private_key(65537, 2048))),
        "key: expected EC P-256, got RSA 2048",
    ),
    "P-384": (lambda: pem(certificate(key=P384)), "key: expected EC P-256, got EC secp384r1"),
    "signed by another": (
        lambda: pem(certificate(signer=OTHER)),
        "signature: not made with the root's own key",
    ),
    "of another key": (
        lambda: pem(certificate(key=OTHER, signer=OTHER)),
        "factory_ca.pem is not the certificate of ",
    ),
    "a bit flipped": (
        lambda: armored(der(certificate()).replace(b"Factory-CA", b"Factory-CB"), "CERTIFICATE"),
        "signature: not made with the root's own key",
    ),
    "unsorted RDN": (
        lambda: armored(unsorted(), "CERTIFICATE"),
        "has a multi-valued RDN whose attributes are not in DER's order",
    ),
    "an extension twice": (
        lambda: armored(
            replaced(
                der(
                    certificate(
                        extensions=[CA[0], x509.UnrecognizedExtension(_oid("2.5.29.99"), b"\x05\x00")]
                    )
                ),
                bytes.fromhex("0603551d63"),
                bytes.fromhex("0603551d13"),
            ),
            "CERTIFICATE",
        ),
        "extension basicConstraints: there twice",
    ),
    "negative serial": (
        lambda: armored(negative_serial(), "CERTIFICATE"),
        "has a serial number that is not positive, against RFC 5280 §4.1.2.2",
    ),
    "truncated": (
        lambda: armored(der(certificate())[:-20], "CERTIFICATE"),
        "cannot be read as a certificate",
    ),
    "empty": (lambda: b"", "is not PEM"),
    "DER": (lambda: der(certificate()), "is not PEM"),
    "two certificates": (lambda: pem(certificate()) * 2, "expected one PEM block, got 2"),
    "a CSR": (lambda: pem(csr()), "expected a CERTIFICATE block, got CERTIFICATE REQUEST"),
    "a key": (lambda: private_key_pem(ROOT_KEY), "expected a CERTIFICATE block, got EC PRIVATE KEY"),
}


def _oid(dotted: str) -> x509.ObjectIdentifier:
    return x509.ObjectIdentifier(dotted)


def negative_serial() -> bytes:
    made = certificate()
    serial = made.serial_number.to_bytes(made.serial_number.bit_length() // 8 + 1, "big")
    return replaced(der(made), bytes([2, len(serial)]) + serial, bytes([2, len(serial), 0x80]) + serial[1:])


def unsorted() -> bytes:
    both = x509.Name(
        [x509.RelativeDistinguishedName([x509.NameAttribute(CN, "abcd"), x509.NameAttribute(OU, FACTORY)])]
    )
    first, second = bytes.fromhex("300b06035504030c0461626364"), bytes.fromhex("300b060355040b0c0461636d65")
    return replaced(der(certificate(name=both, issuer=ROOT)), first + second, second + first)


@pytest.mark.parametrize("case", ROOTS)
def test_a_root_that_breaks_a_rule_signs_nothing(case: str, cli: Cli, pki: Path, tmp_path: Path) -> None:
    make, line = ROOTS[case]
    write(pki / "factory_ca.pem", make())
    asked = tmp_path / "a.csr"
    asked.write_bytes(pem(csr()))

    result = cli("keys", "ca", "sign", asked, "--pki-dir", pki)

    assert result.code in (1, 5)
    assert result.out == ""
    assert line in result.err
    assert str(pki / "factory_ca.pem") in result.err


def test_a_root_signed_with_sha1_is_refused(cli: Cli, pki: Path, tmp_path: Path) -> None:
    """cryptography makes no SHA-1 signatures any more; openssl does."""
    (pki / "factory_ca.pem").unlink()
    command: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-new",
        "-sha1",
        "-key",
        pki / "factory_ca.key",
        "-days",
        "9",
    ]
    subprocess.run(
        [*command, "-subj", f"/CN=Factory-CA/OU={FACTORY}", "-out", str(pki / "factory_ca.pem")],
        check=True,
        capture_output=True,
    )
    result = cli("keys", "est", "keypair", "a.example.com", pki)
    assert (result.code, result.err.splitlines()[1:]) == (
        5,
        ["  signature: expected SHA-256 or better, got sha1"],
    )


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "expected one private key in PEM, got none"),
        (
            b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n",
            "cannot be read as a private key",
        ),
        (key_pem(rsa.generate_private_key(65537, 2048)), "expected an EC P-256 key, got RSA 2048"),
        (key_pem(P384), "expected an EC P-256 key, got EC secp384r1"),
        (private_key_pem(OTHER), "factory_ca.pem is not the certificate of "),
        (key_pem(ROOT_KEY, passphrase=b"secret"), "is encrypted and no passphrase was given"),
    ],
    ids=["empty", "broken", "RSA", "P-384", "another", "encrypted"],
)
def test_a_key_that_cannot_be_used(data: bytes, line: str, cli: Cli, pki: Path, factory: Path) -> None:
    write(pki / "factory_ca.key", data)
    for command in (("keys", "est", "authorize"), ("keys", "ca", "create")):
        result = cli(*command, pki, "--mock", factory, "-f", FACTORY)
        assert result.code in (1, 5)
        assert line in result.err
        assert "factory_ca.key" in result.err
        assert "traceback" not in result.err.lower()


def test_what_is_missing_is_named(cli: Cli, tmp_path: Path, pki: Path, factory: Path) -> None:
    at = ("--mock", factory, "-f", FACTORY)
    for command in (("keys", "est", "authorize"), ("keys", "check")):
        result = cli(*command, tmp_path / "nowhere", *at)
        assert "nowhere: no such directory" in result.err + result.out
        assert result.code in (1, 5)
    (pki / "factory_ca.key").unlink()
    result = cli("keys", "est", "authorize", pki, *at)
    assert (result.code, result.err.splitlines()[0]) == (
        1,
        f"error: {pki}/factory_ca.key is missing: the private key of {pki}/factory_ca.pem",
    )
    result = cli("keys", "ca", "create", pki, *at)
    assert result.code == 1
    assert f"{pki}/factory_ca.key is missing: the private key of {pki}/factory_ca.pem" in result.err
    (pki / "factory_ca.pem").unlink()
    result = cli("keys", "est", "keypair", "a.example.com", pki)
    assert (result.code, result.err) == (
        1,
        f"error: {pki}/factory_ca.pem: no such file\n",
    )


def test_a_file_where_the_directory_should_be(cli: Cli, tmp_path: Path, factory: Path) -> None:
    (tmp_path / "file").touch()
    result = cli("keys", "ca", "create", tmp_path / "file", "--mock", factory, "-f", FACTORY)
    assert result.code == 1
    assert f"{tmp_path}/file" in result.err
    result = cli("keys", "ca", "create", tmp_path / "a" / "b", "--mock", factory, "-f", FACTORY)
    assert result.code == 1
    assert "cannot make the directory" in result.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_key(cli: Cli, pki: Path) -> None:
    (pki / "factory_ca.key").chmod(0)
    result = cli("keys", "est", "keypair", "a.example.com", pki)
    assert result.code == 1
    assert "factory_ca.key cannot be read: Permission denied" in result.err


def test_a_directory_in_place_of_a_key(cli: Cli, pki: Path) -> None:
    (pki / "factory_ca.key").unlink()
    (pki / "factory_ca.key").mkdir()
    result = cli("keys", "est", "keypair", "a.example.com", pki)
    assert result.code == 1
    assert "factory_ca.key cannot be read: Is a directory" in result.err


# --- Encrypted keys ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["PKCS#8", "SEC1"])
def encrypted(request: pytest.FixtureRequest, pki: Path) -> Path:
    """A PKI directory whose root key has the passphrase `pass word`."""
    if request.param == "PKCS#8":
        write(pki / "factory_ca.key", key_pem(ROOT_KEY, passphrase=b"pass word"))
    else:
        (pki / "factory_ca.key").chmod(0o600)
        subprocess.run(
            ["openssl", "ec", "-aes256", "-passout", "pass:pass word", "-out", pki / "factory_ca.key"],
            input=private_key_pem(ROOT_KEY),
            check=True,
            capture_output=True,
        )
        (pki / "factory_ca.key").chmod(0o400)
        assert b"ENCRYPTED" in (pki / "factory_ca.key").read_bytes()
    return pki


def test_a_passphrase_from_the_environment_or_a_file(
    cli: Cli, encrypted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "word").write_text("pass word\n")
    flag = ("--key-passphrase-file", tmp_path / "word")
    assert cli("keys", "est", "keypair", "a.example.com", encrypted, "--filename", "a.pem", *flag).code == 0
    monkeypatch.setenv("FIOCTL_ROTATE_KEY_PASSPHRASE", "pass word")
    assert cli("keys", "est", "keypair", "a.example.com", encrypted, "--filename", "b.pem").code == 0
    monkeypatch.setenv("FIOCTL_ROTATE_KEY_PASSPHRASE", "wr0ng")
    wrong = cli("keys", "est", "keypair", "a.example.com", encrypted, "--filename", "c.pem")
    assert wrong.code == 1
    assert "cannot be decrypted: the passphrase is wrong" in wrong.err
    assert "wr0ng" not in wrong.err
    monkeypatch.setenv("FIOCTL_ROTATE_KEY_PASSPHRASE", "")
    empty = cli("keys", "est", "keypair", "a.example.com", encrypted, "--filename", "c.pem")
    assert empty.code == 2
    assert "FIOCTL_ROTATE_KEY_PASSPHRASE is set but empty" in empty.err
    missing = ("--key-passphrase-file", tmp_path / "no")
    assert cli("keys", "est", "keypair", "a.example.com", encrypted, *missing).code == 2


def test_a_passphrase_is_asked_for_on_a_terminal_and_not_shown(encrypted: Path) -> None:
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "fioctl_rotate",
        "keys",
        "est",
        "keypair",
        "a.example.com",
        str(encrypted),
    ]
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while b"Passphrase of" not in shown or not shown.endswith(b": "):
        shown += os.read(ours, 1000)
    os.write(ours, b"pass word\n")
    try:
        while more := os.read(ours, 1000):
            shown += more
    except OSError:
        pass  # what Linux says at the end of a terminal whose other side is gone
    assert running.wait() == 0, shown
    assert b"pass word" not in shown
    assert shown.count(b"Passphrase of") == 1
    assert (encrypted / "est-tls.pem").exists()


# --- Certificates that were signed elsewhere ---------------------------------------------------------------------

LEAF_OF: dict[str, Any] = {"issuer": ROOT, "name": SERVER, "key": P256}
UPLOADS: dict[str, tuple[Callable[[], bytes], str]] = {
    "of another root": (
        lambda: pem(certificate(**LEAF_OF | {"issuer": subject((CN, "X"))}, signer=OTHER, extensions=LEAF)),
        "issuer: not the Factory's root",
    ),
    "forged": (
        lambda: pem(certificate(**LEAF_OF, signer=OTHER, extensions=LEAF)),
        "signature: not made by the Factory's root",
    ),
    "expired": (
        lambda: pem(certificate(**LEAF_OF, extensions=LEAF, begins=NOW - 9 * DAY, ends=NOW - DAY)),
        "validity: expired at",
    ),
    "no names": (lambda: pem(certificate(**LEAF_OF, extensions=LEAF[:2])), "DNS names: missing in the SAN"),
    "two names": (
        lambda: pem(certificate(**LEAF_OF, extensions=[*LEAF[:2], dns("a.example.com", "b.example.com")])),
        "DNS names: expected exactly one, got 2 (a.example.com, b.example.com)",
    ),
    "a CA": (
        lambda: pem(certificate(**LEAF_OF, extensions=[CA[0], LEAF[2]])),
        "CA:TRUE not allowed for a TLS server",
    ),
    "for clients": (
        lambda: pem(
            certificate(
                **LEAF_OF,
                extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), LEAF[2]],
            )
        ),
        "extended key usage: serverAuth is missing",
    ),
    "may not sign handshakes": (
        lambda: pem(certificate(**LEAF_OF, extensions=[usage("key_agreement"), LEAF[2]])),
        "key usage: digitalSignature is missing",
    ),
    "RSA": (
        lambda: pem(
            certificate(**LEAF_OF | {"key": rsa.generate_private_key(65537, 2048)}, extensions=LEAF),
        ),
        "key: expected EC P-256, got RSA 2048",
    ),
    "a CSR": (lambda: pem(csr()), "expected a CERTIFICATE block, got CERTIFICATE REQUEST"),
}


@pytest.mark.parametrize("case", UPLOADS)
def test_an_est_certificate_that_breaks_a_rule_is_not_uploaded(
    case: str, cli: Cli, pki: Path, factory: Path, tmp_path: Path
) -> None:
    at = ("--mock", factory, "-f", FACTORY)
    assert cli("keys", "ca", "create", pki, *at).code == 0
    make, line = UPLOADS[case]
    (tmp_path / "est.pem").write_bytes(make())
    result = cli("keys", "est", "authorize", pki, "--upload", tmp_path / "est.pem", *at)
    assert result.code in (1, 5)
    assert line in result.err
    assert cli("keys", "est", "show", *at).code == 1, "nothing is there"


LOCALS: dict[str, tuple[Callable[[], bytes], str]] = {
    "of another root": (
        lambda: pem(certificate(name=subject((CN, "fio-1"), (OU, FACTORY)), signer=OTHER)),
        "signature: not made by the Factory's root",
    ),
    "of another factory": (
        lambda: pem(certificate(name=subject((CN, "fio-1"), (OU, "b")))),
        "subject OU: expected 'acme', got 'b'",
    ),
    "not a CA": (
        lambda: pem(certificate(name=SERVER, extensions=LEAF)),
        "expected CA:TRUE for a device CA",
    ),
    "expired": (
        lambda: pem(
            certificate(name=subject((CN, "f"), (OU, FACTORY)), begins=NOW - 9 * DAY, ends=NOW - DAY)
        ),
        "validity: expired",
    ),
}


@pytest.mark.parametrize("case", LOCALS)
def test_a_local_ca_that_breaks_a_rule_is_not_uploaded(case: str, cli: Cli, pki: Path, factory: Path) -> None:
    make, line = LOCALS[case]
    (pki / "local-ca.pem").write_bytes(make())
    result = cli("keys", "ca", "create", pki, "--mock", factory, "-f", FACTORY)
    assert result.code == 5
    assert line in result.err
    assert cli("keys", "ca", "show", "--mock", factory, "-f", FACTORY).code == 1, "nothing is there"
