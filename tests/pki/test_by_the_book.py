"""Certificates of each kind, as linters, openssl and fioctl's make want them; and roots that openssl made."""

import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pkilint import loader
from pkilint.pkix import certificate, extension, name
from pkilint.validation import ValidationFindingSeverity

from fioctl_rotate.mock import new_factory
from fioctl_rotate.pki import certificates
from fioctl_rotate.pki.keys import generate_key
from tests.commandline import Cli
from tests.making import CN, FACTORY, NOW, OU, SAN, csr, dns, pem, subject

GATEWAY, EST = "gw.example.com", "est.example.com"


@pytest.fixture(scope="module")
def linter() -> Any:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


def findings(linter: Any, made: x509.Certificate) -> list[str]:
    """What pkilint has to say, from notice on."""
    document = loader.load_der_certificate(made.public_bytes(Encoding.DER), "certificate")
    return [
        f"{found.finding.code}: {found.message}"
        for result in linter.validate(document.root)
        for found in result.finding_descriptions
        if found.finding.severity not in (ValidationFindingSeverity.INFO, ValidationFindingSeverity.DEBUG)
    ]


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def openssl(*arguments: object) -> str:
    """openssl's stdout; its exit code must be 0."""
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def ceremony(cli: Cli, mock_dir: Path, tmp_path: Path) -> Path:
    """The PKI directory of a Factory that has everything, `est-crt` among it, all made by the commands."""
    addresses = new_factory.Addresses(gateway_name=GATEWAY, est_name=EST)
    new_factory.create(mock_dir, FACTORY, now=datetime.datetime.now(datetime.UTC), addresses=addresses)
    directory = tmp_path / "pki"
    assert cli("keys", "ca", "create", directory, "--mock", mock_dir, "-f", FACTORY).code == 0
    authorized = cli("keys", "est", "authorize", directory, "--mock", mock_dir, "-f", FACTORY)
    assert authorized.code == 0
    (directory / "est-crt").write_text(authorized.out)
    assert cli("keys", "est", "keypair", "own.example.com", directory).code == 0
    return directory


def test_linter_and_openssl_accept_each_kind(linter: Any, ceremony: Path) -> None:
    root = ceremony / "factory_ca.pem"
    for file in ("factory_ca.pem", "local-ca.pem", "online-crt", "tls-crt", "est-crt", "est-tls.pem"):
        assert findings(linter, load(ceremony / file)) == [], file
        openssl("verify", "-x509_strict", "-CAfile", root, ceremony / file)
    for file, host in (("tls-crt", GATEWAY), ("est-crt", EST), ("est-tls.pem", "own.example.com")):
        openssl("verify", "-purpose", "sslserver", "-CAfile", root, ceremony / file)
        said = openssl("x509", "-noout", "-checkhost", host, "-in", ceremony / file)
        assert "does match certificate" in said
        other = openssl("x509", "-noout", "-checkhost", "other.example.com", "-in", ceremony / file)
        assert "does NOT match" in other


def test_linter_and_openssl_accept_a_device_certificate(linter: Any, ceremony: Path, tmp_path: Path) -> None:
    local = load(ceremony / "local-ca.pem")
    signer = x509.load_pem_x509_certificate((ceremony / "local-ca.pem").read_bytes())
    key = generate_key()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    ca_key = load_pem_private_key((ceremony / "local-ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    production = subject((CN, "f8d8"), (OU, FACTORY), (NameOID.BUSINESS_CATEGORY, "production"))
    made = certificates.sign_device(
        production, key.public_key(), signer, ca_key, now=NOW, lifetime=datetime.timedelta(days=365)
    )
    assert findings(linter, made) == []
    file, chain = tmp_path / "client.pem", ceremony / "local-ca.pem"
    file.write_bytes(pem(made))
    trusted = ("-CAfile", ceremony / "factory_ca.pem", "-untrusted", chain)
    openssl("verify", "-x509_strict", "-purpose", "sslclient", *trusted, file)
    assert made.not_valid_after_utc <= local.not_valid_after_utc


def test_names_lifetimes_and_extensions_are_those_that_fioctl_writes(ceremony: Path) -> None:
    def extensions(made: x509.Certificate) -> dict[str, bool]:
        return {e.oid._name: e.critical for e in made.extensions}

    root, local = load(ceremony / "factory_ca.pem"), load(ceremony / "local-ca.pem")
    tls, est = load(ceremony / "tls-crt"), load(ceremony / "est-crt")
    assert root.subject == subject((CN, "Factory-CA"), (OU, FACTORY))
    assert extensions(root) == {
        "basicConstraints": True,
        "keyUsage": True,
        "extendedKeyUsage": False,
        "subjectKeyIdentifier": False,
    }
    assert str(local.subject.get_attributes_for_oid(CN)[0].value).startswith("fio-")
    assert extensions(local) == {
        "basicConstraints": True,
        "keyUsage": True,
        "subjectKeyIdentifier": False,
        "authorityKeyIdentifier": False,
    }
    server = {
        "keyUsage": True,
        "extendedKeyUsage": False,
        "subjectAltName": False,
        "subjectKeyIdentifier": False,
        "authorityKeyIdentifier": False,
    }
    assert extensions(tls) == extensions(est) == server
    for made, years in ((root, 20), (local, 10), (tls, 10), (est, 10)):
        begins, ends = made.not_valid_before_utc, made.not_valid_after_utc
        assert ends == certificates.years_later(begins, years)
        assert made.serial_number > 0
        assert len(made.serial_number.to_bytes(21).lstrip(b"\0")) <= 20
        assert not made.serial_number >> 159, "the first bit is the sign: it must be clear in 20 octets"


@pytest.mark.parametrize(
    "kind",
    ["UTF8String", "PRINTABLESTRING", "IA5STRING", "TELETEXSTRING", "BMPSTRING", "reordered", "multi-valued"],
)
def test_a_subject_is_kept_byte_for_byte(kind: str, cli: Cli, pki: Path, tmp_path: Path) -> None:
    """String types, order of RDNs and multi-valued RDNs: what fioctl re-encodes, we keep."""
    config, key, asked = tmp_path / "cnf", tmp_path / "key", tmp_path / "a.csr"
    key.write_bytes(certificates_key())
    lines = {"reordered": f"OU={FACTORY}\nO=b\nCN=a", "multi-valued": f"CN=a\n+OU={FACTORY}\nO=b"}
    mask = {
        "PRINTABLESTRING": "nombstr",
        "IA5STRING": "MASK:16",
        "TELETEXSTRING": "MASK:4",
        "BMPSTRING": "MASK:0x800",
    }
    config.write_text(
        f"[req]\nprompt=no\ndistinguished_name=dn\nreq_extensions=ext\n"
        f"string_mask={mask.get(kind, 'utf8only')}\n[dn]\n{lines.get(kind, f'CN=a{chr(10)}OU={FACTORY}')}\n"
        f"[ext]\nsubjectAltName=DNS:a.example.com\n"
    )
    openssl("req", "-new", "-config", config, "-key", key, "-out", asked)

    signed = cli("keys", "ca", "sign", asked, "--pki-dir", pki)

    assert signed.code == 0, signed.err
    (tmp_path / "a.pem").write_text(signed.out)
    assert raw_subject(tmp_path / "a.pem", "x509") == raw_subject(asked, "req")
    openssl("verify", "-CAfile", pki / "factory_ca.pem", tmp_path / "a.pem")


def certificates_key() -> bytes:
    from fioctl_rotate.pki.keys import private_key_pem

    return private_key_pem(generate_key())


def raw_subject(file: Path, kind: str) -> str:
    """The subject as openssl shows it with every string type and multi-valued RDN in its place."""
    return openssl(
        kind, "-in", file, "-noout", "-subject", "-nameopt", "show_type,sep_comma_plus,sname,dump_der"
    )


@pytest.mark.parametrize("name_of", ["10.0.0.1", "email", "uri"])
def test_keys_ca_sign_keeps_the_other_kinds_of_names(
    name_of: str, cli: Cli, pki: Path, tmp_path: Path
) -> None:
    import ipaddress

    names: dict[str, x509.GeneralName] = {
        "10.0.0.1": x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        "email": x509.RFC822Name("a@example.com"),
        "uri": x509.UniformResourceIdentifier("https://example.com/a"),
    }
    san = x509.SubjectAlternativeName([x509.DNSName("a.example.com"), names[name_of]])
    asked = tmp_path / "a.csr"
    asked.write_bytes(pem(csr(name=subject((CN, "mine")), san=san)))
    signed = cli("keys", "ca", "sign", asked, "--pki-dir", pki)
    made = x509.load_pem_x509_certificate(signed.out.encode())
    assert made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value == san


def test_keys_ca_sign_makes_a_device_ca_of_a_csr_that_wants_one(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "a.csr"
    wanted = x509.BasicConstraints(ca=True, path_length=None)
    asked.write_bytes(pem(csr(wanted, name=subject((CN, "fio-1"), (OU, FACTORY)), san=None)))
    signed = cli("keys", "ca", "sign", asked, "--pki-dir", pki)
    made = x509.load_pem_x509_certificate(signed.out.encode())
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)


def test_a_certificate_does_not_outlive_the_root(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "a.csr"
    asked.write_bytes(pem(csr(san=dns("a.example.com"), name=subject((CN, "a.example.com")))))
    signed = cli("keys", "ca", "sign", asked, "--pki-dir", pki)
    made = x509.load_pem_x509_certificate(signed.out.encode())
    assert made.not_valid_after_utc == load(pki / "factory_ca.pem").not_valid_after_utc
    assert SAN


# --- A root that openssl made -------------------------------------------------------------------------------------

MANUAL = """[req]
prompt = no
distinguished_name = dn
x509_extensions = ext
[dn]
CN = Factory-CA
OU = {factory}
[ext]
basicConstraints = CA:TRUE
keyUsage = keyCertSign, cRLSign
extendedKeyUsage = critical, clientAuth, serverAuth
"""


def manuals_root(directory: Path, factory: str = FACTORY) -> None:
    """What the FoundriesFactory manual has an operator do with openssl: key, configuration, self-signed root."""
    directory.mkdir(mode=0o700)
    key, config = directory / "factory_ca.key", directory / "factory_ca.cnf"
    config.write_text(MANUAL.format(factory=factory))
    with_parameters = subprocess.run(
        ["openssl", "ecparam", "-genkey", "-name", "prime256v1"], check=True, capture_output=True
    ).stdout
    subprocess.run(["openssl", "ec", "-out", key], input=with_parameters, check=True, capture_output=True)
    openssl(
        *("req", "-new", "-x509", "-days", 7300, "-sha256", "-config", config),
        *("-key", key, "-out", directory / "factory_ca.pem"),
    )


def test_a_root_made_as_the_manual_says_is_adopted_and_signs(
    cli: Cli, mock_dir: Path, tmp_path: Path
) -> None:
    addresses = new_factory.Addresses(gateway_name=GATEWAY, est_name=EST)
    new_factory.create(mock_dir, FACTORY, now=datetime.datetime.now(datetime.UTC), addresses=addresses)
    directory = tmp_path / "pki"
    manuals_root(directory)
    before = (directory / "factory_ca.pem").read_bytes(), (directory / "factory_ca.key").read_bytes()

    created = cli("keys", "ca", "create", directory, "--mock", mock_dir, "-f", FACTORY, "--format", "json")

    assert created.code == 0, created.err
    assert "adopting the root" in created.err
    assert created.json["root"]["pem"].encode() == before[0]
    assert (
        (directory / "factory_ca.pem").read_bytes(),
        (directory / "factory_ca.key").read_bytes(),
    ) == before
    authorized = cli("keys", "est", "authorize", directory, "--mock", mock_dir, "-f", FACTORY)
    assert authorized.code == 0, authorized.err
    (tmp_path / "est.pem").write_text(authorized.out)
    openssl("verify", "-CAfile", directory / "factory_ca.pem", tmp_path / "est.pem")
    said = openssl("x509", "-noout", "-checkhost", EST, "-in", tmp_path / "est.pem")
    assert "does match certificate" in said


def test_a_root_of_another_factory_is_not_adopted(cli: Cli, factory: Path, tmp_path: Path) -> None:
    manuals_root(tmp_path / "pki", "other")
    refused = cli("keys", "ca", "create", tmp_path / "pki", "--mock", factory, "-f", FACTORY)
    assert refused.code == 5
    assert "subject OU: expected 'acme', got 'other'" in refused.err
    shown = cli("keys", "ca", "show", "--mock", factory, "-f", FACTORY)
    assert shown.code == 1
    assert "has no PKI of its own" in shown.err


def test_a_root_signed_by_a_higher_ca_is_adopted(cli: Cli, factory: Path, pki: Path) -> None:
    from tests import making

    higher = subject((CN, "Corporate Root"))
    signed = making.certificate(issuer=higher, signer=generate_key())
    (pki / "factory_ca.pem").write_bytes(pem(signed))
    created = cli("keys", "ca", "create", pki, "--mock", factory, "-f", FACTORY)
    assert created.code == 0, created.err
    assert "it is signed by a higher CA: CN=Corporate Root" in created.err


def test_a_root_as_fioctl_may_make_it_signs(cli: Cli, tmp_path: Path) -> None:
    """Half of fioctl's serials take 21 octets; other programs write the subject as PrintableString, OU first."""
    directory = tmp_path / "pki"
    manuals_root(directory)
    (directory / "factory_ca.pem").unlink()
    openssl(
        *("req", "-new", "-x509", "-days", 7300, "-sha256", "-key", directory / "factory_ca.key"),
        *("-subj", f"/OU={FACTORY}/CN=Factory-CA", "-set_serial", "0xff" + "ee" * 19),
        *("-config", directory / "factory_ca.cnf", "-out", directory / "factory_ca.pem"),
    )
    assert cli("est", "keypair", "a.example.com", directory).code == 0
    openssl("verify", "-CAfile", directory / "factory_ca.pem", directory / "est-tls.pem")
