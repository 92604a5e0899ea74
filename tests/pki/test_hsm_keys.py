"""Keys as real HSMs have them: a PIN at each signature, the private half alone, other labels and ids."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.pki.hsm import TokenKeyStore
from fioctl_rotate.pki.hsm_session import Session
from fioctl_rotate.pki.hsm_session import Token as PkiToken
from fioctl_rotate.pki.pkcs11_uri import Pkcs11Uri, parse_pkcs11_uri
from tests.commandline import Cli
from tests.making import FACTORY, ROOT_KEY, certificate, csr, der, pem
from tests.pki.softhsm import MODULE, PIN, Token, needs_softhsm

Adopted = tuple[Token, Path]


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    """A CSR that `keys ca sign` signs."""
    file = tmp_path / "a.csr"
    file.write_bytes(pem(csr()))
    return file


def write_certificate(
    token: Token, directory: Path, *, id: str, label: str, source: bytes | None = None
) -> None:
    """Put the root's certificate into the token."""
    made = x509.load_pem_x509_certificate(source or (directory / "factory_ca.pem").read_bytes())
    file = directory.parent / "root.der"
    file.write_bytes(der(made))
    token.tool("--write-object", str(file), "--type", "cert", "--id", id, "--label", label)


# --- A PIN at each signature ---


@needs_softhsm
def test_a_key_that_wants_the_pin_at_each_signature(
    token: Token, cli: Cli, factory: Path, tmp_path: Path, request_file: Path
) -> None:
    """CKA_ALWAYS_AUTHENTICATE, as in slot 9c of a YubiKey."""
    token.generate("--always-auth")
    at = ("--mock", factory, "-f", FACTORY)
    created = cli("keys", "ca", "create", tmp_path / "pki", *token.flags, *at)
    assert created.code == 0, created.err
    authorized = cli("est", "authorize", tmp_path / "pki", *token.flags, *at)
    assert authorized.code == 0, authorized.err
    signed = cli("keys", "ca", "sign", request_file, "--pki-dir", tmp_path / "pki", *token.flags)
    root = x509.load_pem_x509_certificate((tmp_path / "pki" / "factory_ca.pem").read_bytes())
    x509.load_pem_x509_certificate(signed.out.encode()).verify_directly_issued_by(root)


# --- The private half alone ---


@needs_softhsm
@pytest.mark.parametrize("where", ["directory", "token, same label", "token, same id"])
def test_a_token_without_the_public_key(where: str, adopted: Adopted, cli: Cli, request_file: Path) -> None:
    """The public half is in the root's certificate: in the PKI directory, or beside the key."""
    token, directory = adopted
    token.tool("--delete-object", "--type", "pubkey", "--label", "root-ca")
    if where != "directory":
        label = "root-ca" if where == "token, same label" else "X.509 Certificate for Digital Signature"
        write_certificate(token, directory, id="31" if where == "token, same id" else "77", label=label)
    signed = cli("keys", "ca", "sign", request_file, "--pki-dir", directory, *token.flags)
    assert signed.code == 0, signed.err
    checked = cli("keys", "check", directory, "--offline", *token.flags)
    assert checked.code == 0, checked.out
    if where != "directory":
        # Without a certificate in the directory, only the one in the token has the key.
        assert MODULE is not None
        key = TokenKeyStore(PkiToken(str(MODULE), token.label, lambda: PIN)).load()
        assert key is not None
        root = x509.load_pem_x509_certificate((directory / "factory_ca.pem").read_bytes())
        assert key.public_key() == root.public_key()


@needs_softhsm
@pytest.mark.parametrize("where", ["directory", "token"])
def test_the_certificate_of_another_key(where: str, adopted: Adopted, cli: Cli, request_file: Path) -> None:
    token, directory = adopted
    token.tool("--delete-object", "--type", "pubkey", "--label", "root-ca")
    other = pem(certificate(key=ROOT_KEY, signer=ROOT_KEY))
    if where == "directory":
        (directory / "factory_ca.pem").write_bytes(other)
    else:
        write_certificate(token, directory, id="31", label="root-ca", source=other)
    result = cli("keys", "ca", "sign", request_file, "--pki-dir", directory, *token.flags)
    assert (result.code, result.out) == (1, "")
    assert "its private key does not fit the public key or certificate" in result.err


@needs_softhsm
def test_a_value_that_cannot_be_read_is_an_error(token: Token) -> None:
    """A vendor's own key type, for example: python-pkcs11 raises ValueError."""

    def strange(_session: object) -> None:
        raise ValueError("3221225472 is not a valid KeyType")

    with pytest.raises(Error, match=rf"token {token.label}: its answer cannot be read \(3221225472 is not"):
        Session(PkiToken(str(MODULE), token.label, lambda: PIN)).call(strange)


# --- Other labels and ids ---


def uri(token: Token, more: str, **query: object) -> tuple[str, str]:
    asked = {"module-path": MODULE, **query}
    return "--hsm-uri", f"pkcs11:token={token.label};{more}?" + "&".join(f"{k}={v}" for k, v in asked.items())


@needs_softhsm
def test_a_key_is_found_by_what_its_uri_says(token: Token, cli: Cli, factory: Path, tmp_path: Path) -> None:
    token.generate(label="SIGN key", id="02")
    token.generate(label="SIGN key", id="03")
    at = ("--mock", factory, "-f", FACTORY)
    create = ("keys", "ca", "create", tmp_path / "pki")

    both = cli(*create, *uri(token, "object=SIGN%20key"), *at)
    assert both.code == 1
    assert "key SIGN key in token" in both.err
    assert "expected one private key and its public key, got 2 and 2" in both.err
    assert "--hsm-uri" in both.err

    created = cli(*create, *uri(token, "object=SIGN%20key;id=%03;type=private"), *at)
    assert created.code == 0, created.err
    by_id = cli("keys", "check", tmp_path / "pki", *uri(token, "id=%03"), *at)
    assert by_id.code == 0, by_id.out
    other = cli("keys", "check", tmp_path / "pki", *uri(token, "id=%02"), *at)
    assert other.code == 5
    assert "is not the certificate of key with id 02 in token" in other.out
    nothing = cli("keys", "check", tmp_path / "pki", *uri(token, "id=%09"), *at)
    assert "key with id 09 in token" in nothing.out
    assert "is missing" in nothing.out


@needs_softhsm
def test_a_token_is_found_by_its_serial(adopted: Adopted, cli: Cli) -> None:
    token, directory = adopted
    slots = subprocess.run(
        ["pkcs11-tool", "--module", str(MODULE), "--list-slots"], capture_output=True, text=True, check=True
    ).stdout
    serial = slots.partition(f": {token.label}\n")[2].partition("serial num")[2].split(":")[1].split()[0]
    found = f"pkcs11:serial={serial};model=SoftHSM%20v2;manufacturer=SoftHSM%20project?module-path={MODULE}"
    check = ("keys", "check", directory, "--offline")
    assert cli(*check, "--hsm-uri", found).code == 0
    wrong = cli(*check, "--hsm-uri", found.replace("SoftHSM%20v2", "YubiKey"))
    assert wrong.code == 5
    assert f"token {serial}: expected one such token, got none" in wrong.out


@needs_softhsm
def test_the_pin_that_a_uri_names(
    adopted: Adopted, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, directory = adopted
    monkeypatch.delenv("FIOCTL_ROTATE_HSM_PIN")
    (tmp_path / "pin").write_text(f"{PIN}\n")
    check = ("keys", "check", directory, "--offline")
    for source in (f"{tmp_path}/pin", f"file:{tmp_path}/pin", f"file://{tmp_path}/pin"):
        assert cli(*check, *uri(token, "", **{"pin-source": source})).code == 0
    seen = cli(*check, *uri(token, "", **{"pin-value": PIN}))
    assert seen.code == 0
    assert "warning: --hsm-uri shows the PIN in the process list" in seen.err


@needs_softhsm
def test_an_est_server_signs_with_the_key_that_a_uri_names(adopted: Adopted, tmp_path: Path) -> None:
    """A wrong one is an error before it serves: key and certificate are not a pair."""
    token, directory = adopted
    token.generate(label="other", id="05")
    command = [
        *(sys.executable, "-m", "fioctl_rotate", "est", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--root-cert", directory / "factory_ca.pem", "--ca-cert", directory / "factory_ca.pem"),
        *("--tls-cert", tmp_path / "no", "--tls-key", tmp_path / "no", *uri(token, "object=other")),
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"key other in token {token.label} is not the key of" in done.stderr


# --- The URI alone ---


def test_a_whole_uri() -> None:
    text = (
        "pkcs11:token=My%20token%25;serial=01%2F2;manufacturer=a;model=b;object=Schl%C3%BCssel;id=%00%ff0;type=private"
        "?module-path=/a/b%20c.so&pin-source=file:/run/pin&x-vendor=1"
    )
    assert parse_pkcs11_uri(text) == Pkcs11Uri(
        token="My token%",
        serial="01/2",
        manufacturer="a",
        model="b",
        object="Schlüssel",
        id=b"\x00\xff0",
        module_path="/a/b c.so",
        pin_source="/run/pin",
    )
    assert "1234" not in repr(parse_pkcs11_uri("pkcs11:?pin-value=1234"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("token=a", "not a PKCS#11 URI: expected pkcs11:token=…, got 'token=a'"),
        ("pkcs11:token", "expected NAME=VALUE, got 'token'"),
        ("pkcs11:token=%zz", "expected NAME=VALUE, got 'token'"),
        ("pkcs11:token=a;token=b", "the attribute 'token' is there twice"),
        ("pkcs11:slot-id=1", "the attribute 'slot-id' is not supported"),
        ("pkcs11:type=cert", "expected type=private, got type=cert"),
        ("pkcs11:object=%ff", "object is not UTF-8"),
        ("pkcs11:?pin-source=|cat%20x", "pin-source names a program, which is not run"),
        ("pkcs11:?pin-source=a&pin-value=b", "expected one of pin-source and pin-value, got both"),
    ],
)
def test_a_uri_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pkcs11_uri(text)
    assert message in caught.value.message


@given(st.one_of(st.text(), st.from_regex(r"\Apkcs11:[a-z;=%0-9?&]*\Z")))
def test_a_uri_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_pkcs11_uri(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--hsm-uri", "pkcs11:token=a"), "give the PKCS#11 module once"),
        (("--hsm-uri", "pkcs11:?module-path=/a", "--hsm-module", "/b"), "give the PKCS#11 module once"),
        (("--hsm-uri", "pkcs11:?module-path=/a", "--hsm-token-label", "b"), "give either --hsm-uri or"),
        (("--hsm-uri", "pkcs11:?module-path=/a&pin-source=b", "--hsm-pin-file", "c"), "give either --hsm-pin-file"),
        (("--hsm-pin-file", "c"), "a PIN without an HSM"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other(
    flags: tuple[str, ...], message: str, cli: Cli, pki: Path
) -> None:
    result = cli("keys", "check", pki, "--offline", *flags)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
