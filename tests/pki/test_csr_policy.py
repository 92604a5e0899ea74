"""Hostile and broken CSRs, each refused with its own line, and nothing signed."""

import ipaddress
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from fioctl_rotate.pki.keys import private_key_pem
from tests.commandline import Cli
from tests.making import (
    CN,
    FACTORY,
    NAME,
    OU,
    P256,
    SAN,
    SERVER,
    O,
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

Make = Callable[[], bytes]


def asks(*extensions: x509.ExtensionType) -> Make:
    return lambda: pem(csr(*extensions))


def named(*names: str) -> Make:
    return lambda: pem(csr(san=dns(*names)))


def san(*names: x509.GeneralName) -> Make:
    return lambda: pem(csr(san=x509.SubjectAlternativeName(names)))


def called(*attributes: tuple[x509.ObjectIdentifier, str]) -> Make:
    return lambda: pem(csr(name=subject(*attributes)))


SHA256 = hashes.SHA256()


def keyed(make: Callable[[], object], algorithm: hashes.SHA256 | hashes.SHA512 | None = SHA256) -> Make:
    return lambda: pem(csr(key=make(), algorithm=algorithm))


def resigned(change: Callable[[bytes], bytes]) -> Make:
    """A CSR whose signed part was changed and then signed again, properly: only what it says is wrong."""

    def make() -> bytes:
        whole = der(csr())
        signed = csr().tbs_certrequest_bytes
        changed = change(signed)
        signature = P256.sign(changed, ec.ECDSA(hashes.SHA256()))
        tail = (
            bytes.fromhex("300a06082a8648ce3d040302")
            + b"\x03"
            + _length(len(signature) + 1)
            + b"\0"
            + signature
        )
        assert whole  # the parts above are those of a CSR (RFC 2986 §4.2)
        return armored(b"\x30" + _length(len(changed) + len(tail)) + changed + tail)

    return make


def _length(size: int) -> bytes:
    return bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")


def other_signature() -> bytes:
    """A CSR with the signature of another CSR by the same key."""
    one, other = csr(), csr(name=subject((CN, "b.example.com"), (OU, FACTORY)), san=dns("b.example.com"))
    body, signature = one.tbs_certrequest_bytes, other.signature
    tail = (
        bytes.fromhex("300a06082a8648ce3d040302") + b"\x03" + _length(len(signature) + 1) + b"\0" + signature
    )
    return armored(b"\x30" + _length(len(body) + len(tail)) + body + tail)


def swapped_key() -> bytes:
    """A CSR in which somebody put a key of their own: the signature is no longer by the key that it names."""
    mine, theirs = (
        key.public_key().public_bytes(Encoding.X962, _UNCOMPRESSED)
        for key in (P256, ec.generate_private_key(ec.SECP256R1()))
    )
    return armored(replaced(der(csr()), mine, theirs))


def unsorted_rdn() -> bytes:
    """A multi-valued RDN in the order CN, OU where DER wants the one that sorts first to come first."""
    both = x509.Name(
        [x509.RelativeDistinguishedName([x509.NameAttribute(CN, "abcd"), x509.NameAttribute(OU, FACTORY)])]
    )
    first, second = bytes.fromhex("300b06035504030c0461626364"), bytes.fromhex("300b060355040b0c0461636d65")
    return armored(replaced(der(csr(name=both)), first + second, second + first))


def off_curve() -> bytes:
    point = P256.public_key().public_bytes(Encoding.X962, _UNCOMPRESSED)
    return armored(replaced(der(csr()), point, b"\x04" + bytes(63) + b"\x05"))


def sha1_signed(tmp: Path) -> bytes:
    """cryptography makes no SHA-1 signatures any more; openssl does."""
    (tmp / "key.pem").write_bytes(private_key_pem(P256))
    return subprocess.run(
        [
            *("openssl", "req", "-new", "-sha1", "-key", tmp / "key.pem"),
            *("-subj", f"/CN={NAME}/OU={FACTORY}", "-addext", f"subjectAltName=DNS:{NAME}"),
        ],
        check=True,
        capture_output=True,
    ).stdout


_UNCOMPRESSED = PublicFormat.UncompressedPoint
OTHER_NAME = x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x0c\x01a")
AIA = x509.AuthorityInformationAccess(
    [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://x/"))]
)
CRL = x509.CRLDistributionPoints(
    [x509.DistributionPoint([x509.UniformResourceIdentifier("http://x/")], None, None, None)]
)
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
POLICIES = x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)])
CONSTRAINTS = x509.NameConstraints([x509.DNSName("example.com")], None)

HOSTILE: dict[str, tuple[Make, str]] = {
    # names
    "no SAN": (lambda: pem(csr(san=None)), "DNS names: missing in the SAN; a name in the CN does not count"),
    "two names": (
        named(NAME, "b.example.com"),
        f"DNS names: expected exactly one, got 2 ({NAME}, b.example.com)",
    ),
    "a name twice": (named(NAME, NAME.upper()), "DNS names: the same name twice"),
    "wildcard": (named("*.example.com"), "DNS name '*.example.com': a wildcard"),
    "wildcard inside": (named("e*t.example.com"), "DNS name 'e*t.example.com': a wildcard"),
    "trailing dot": (named("est.example.com."), "DNS name 'est.example.com.': ends in a dot"),
    "empty name": (named(""), "DNS name '': not a host name"),
    "empty label": (named("est..example.com"), "DNS name 'est..example.com': not a host name"),
    "underscore": (named("e_t.example.com"), "DNS name 'e_t.example.com': not a host name"),
    "leading hyphen": (named("-est.example.com"), "DNS name '-est.example.com': not a host name"),
    "space": (named("est example.com"), "DNS name 'est example.com': not a host name"),
    "NUL": (
        named("est.example.com\0.evil.com"),
        "DNS name 'est.example.com\\x00.evil.com': not a host name",
    ),
    "newline": (named("est.example.com\n"), "DNS name 'est.example.com\\n': not a host name"),
    "a URL": (named("https://est.example.com"), "DNS name 'https://est.example.com': not a host name"),
    "long label": (named("a" * 64 + ".example.com"), "a label longer than 63 characters"),
    "long name": (named(".".join(["a" * 60] * 5)), "longer than 253 characters"),
    "IP as a DNS name": (named("192.168.1.1"), "DNS name '192.168.1.1': its last label is a number"),
    "other name": (named("est.evil.com"), f"DNS names: expected {NAME}, got est.evil.com"),
    "CN of another host": (
        called((CN, "a.evil.com"), (OU, FACTORY)),
        "subject CN: 'a.evil.com' looks like a host",
    ),
    "IP SAN": (
        san(x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))),
        "names: expected a DNS name, got the IP address 10.0.0.1",
    ),
    "URI SAN": (
        san(x509.DNSName(NAME), x509.UniformResourceIdentifier("spiffe://a")),
        "names: expected a DNS name, got the URI spiffe://a",
    ),
    "email SAN": (
        san(x509.DNSName(NAME), x509.RFC822Name("a@example.com")),
        "names: expected a DNS name, got the email address a@example.com",
    ),
    "directory name": (
        san(x509.DNSName(NAME), x509.DirectoryName(SERVER)),
        "names: expected a DNS name, got a name of the kind DirectoryName",
    ),
    "registered id": (
        san(x509.DNSName(NAME), x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))),
        "names: expected a DNS name, got a name of the kind RegisteredID",
    ),
    "other name kind": (
        san(x509.DNSName(NAME), OTHER_NAME),
        "expected a DNS name, got a name of the kind OtherName",
    ),
    # what it wants to be
    "CA:TRUE": (
        asks(x509.BasicConstraints(ca=True, path_length=None)),
        "basic constraints: CA:TRUE not allowed for an EST server",
    ),
    "path length": (
        asks(x509.BasicConstraints(ca=True, path_length=3)),
        "expected path length 0, got 3",
    ),
    "keyCertSign": (asks(usage("digital_signature", "key_cert_sign")), "key usage: keyCertSign not allowed"),
    "cRLSign": (asks(usage("crl_sign")), "key usage: cRLSign not allowed for an EST server"),
    "nonRepudiation": (asks(usage("content_commitment")), "key usage: nonRepudiation not allowed"),
    "clientAuth": (
        asks(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])),
        "extended key usage: clientAuth not allowed",
    ),
    "any purpose": (
        asks(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])),
        "extended key usage: 2.5.29.37.0 not allowed",
    ),
    "code signing": (
        asks(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])),
        "extended key usage: codeSigning not allowed",
    ),
    "name constraints": (asks(CONSTRAINTS), "extension nameConstraints: not allowed in a CSR"),
    "policies": (asks(POLICIES), "extension certificatePolicies: not allowed in a CSR"),
    "AIA": (asks(AIA), "extension authorityInfoAccess: not allowed in a CSR"),
    "CRL": (asks(CRL), "extension cRLDistributionPoints: not allowed in a CSR"),
    "must-staple": (
        asks(x509.TLSFeature([x509.TLSFeatureType.status_request])),
        "extension TLSFeature: not allowed",
    ),
    "unknown extension": (asks(UNKNOWN), "extension 1.2.3.4.5: not allowed in a CSR"),
    "subject key id": (
        asks(x509.SubjectKeyIdentifier(b"1" * 20)),
        "extension subjectKeyIdentifier: not allowed",
    ),
    # subject
    "other factory": (called((CN, NAME), (OU, "other")), "subject OU: expected 'acme', got 'other'"),
    "factory in other case": (called((CN, NAME), (OU, "ACME")), "subject OU: expected 'acme', got 'ACME'"),
    "two OUs": (
        called((CN, NAME), (OU, FACTORY), (OU, "b")),
        "subject OU: expected 'acme', got 2",
    ),
    "no CN": (called((OU, FACTORY)), "subject CN: expected one, got none"),
    "two CNs": (called((CN, NAME), (CN, NAME), (OU, FACTORY)), "subject CN: expected one, got 2"),
    "empty subject": (called(), "subject CN: expected one, got none"),
    "control characters": (
        called((CN, NAME), (OU, FACTORY), (O, "a\x1b[31mb")),
        "subject O: 'a\\x1b[31mb' is empty or has control characters",
    ),
    "blank attribute": (
        called((CN, NAME), (OU, FACTORY), (NameOID.LOCALITY_NAME, " ")),
        "subject L: ' ' is empty",
    ),
    # key and signature
    "RSA": (
        keyed(lambda: rsa.generate_private_key(65537, 2048)),
        "key: expected EC P-256, got RSA 2048",
    ),
    "P-384": (
        keyed(lambda: ec.generate_private_key(ec.SECP384R1())),
        "key: expected EC P-256, got EC secp384r1",
    ),
    "secp256k1": (
        keyed(lambda: ec.generate_private_key(ec.SECP256K1())),
        "key: expected EC P-256, got EC secp256k1",
    ),
    "Ed25519": (keyed(ed25519.Ed25519PrivateKey.generate, None), "key: expected EC P-256, got Ed25519"),
    "DSA": (keyed(lambda: dsa.generate_private_key(2048)), "key: expected EC P-256, got DSA 2048"),
    "off the curve": (off_curve, "cannot be read as a CSR"),
    "signature of another CSR": (other_signature, "signature: not made by the CSR's own key"),
    "somebody else's key": (swapped_key, "signature: not made by the CSR's own key"),
    "a bit flipped": (
        lambda: armored(replaced(der(csr()), b"est.example.com", b"esT.example.com")),
        "signature: not made by the CSR's own key",
    ),
    # reading
    "unsorted RDN": (
        unsorted_rdn,
        "has a multi-valued RDN whose attributes are not in DER's order (X.690 §11.6)",
    ),
    "unknown version": (
        resigned(lambda b: replaced(b, b"\2\1\0", b"\2\1\5")),
        "is a CSR of an unknown version",
    ),
    "truncated": (
        lambda: armored(der(csr())[:-9]),
        "cannot be read as a CSR",
    ),
    "garbage in armour": (
        lambda: armored(b"not DER at all"),
        "cannot be read as a CSR",
    ),
    "empty file": (lambda: b"", "is not PEM"),
    "DER, not PEM": (lambda: der(csr()), "is not PEM"),
    "HTML": (lambda: b"<html><body>503</body></html>", "is not PEM"),
    "two CSRs": (lambda: pem(csr()) * 2, "expected one PEM block, got 2"),
    "glued": (
        lambda: pem(csr()).rstrip() + pem(csr()),
        "line 8: expected -----END CERTIFICATE REQUEST----- alone on a line, got",
    ),
    "cut off": (lambda: pem(csr())[:-9], "line 8: expected -----END CERTIFICATE REQUEST----- alone"),
    "no end": (lambda: pem(csr())[:-36], "has no -----END CERTIFICATE REQUEST-----"),
    "UTF-16": (lambda: pem(csr()).decode().encode("utf-16"), "is UTF-16 text: expected ASCII or UTF-8"),
    "a certificate": (lambda: pem(certificate()), "expected a CERTIFICATE REQUEST block, got CERTIFICATE"),
    "a private key": (
        lambda: private_key_pem(P256),
        "expected a CERTIFICATE REQUEST block, got EC PRIVATE KEY",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_est_csr_is_refused(case: str, cli: Cli, pki: Path, tmp_path: Path) -> None:
    make, line = HOSTILE[case]
    asked, out = tmp_path / "est.csr", tmp_path / "est.pem"
    asked.write_bytes(make())

    result = cli("keys", "est", "authorize", pki, "--csr", asked, "--out", out, "--dns-name", NAME)

    assert result.code in (1, 5), result
    assert line in result.err
    assert result.err.startswith("error: ")
    assert result.out == ""
    assert not out.exists()


def test_every_violation_has_a_line_of_its_own(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "est.csr"
    asked.write_bytes(
        pem(
            csr(
                x509.BasicConstraints(ca=True, path_length=None),
                name=subject((CN, "x"), (OU, "b")),
                san=dns("*.x.com"),
            )
        )
    )

    result = cli("keys", "est", "authorize", pki, "--csr", asked, "--out", tmp_path / "out")

    assert result.code == 5
    assert result.err.splitlines()[:4] == [
        f"error: {asked} is refused:",
        "  subject OU: expected 'acme', got 'b'",
        "  basic constraints: CA:TRUE not allowed for an EST server",
        "  DNS name '*.x.com': a wildcard, which devices' TLS libraries judge differently",
    ]


def test_a_server_needs_no_ou(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked, out = tmp_path / "est.csr", tmp_path / "est.crt"
    asked.write_bytes(pem(csr(name=subject((CN, NAME)))))
    result = cli("keys", "est", "authorize", pki, "--csr", asked, "--out", out)
    assert result.code == 0, result.err
    assert x509.load_pem_x509_certificate(out.read_bytes()).subject == subject((CN, NAME))


def test_a_sha1_signature_is_refused(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "est.csr"
    asked.write_bytes(sha1_signed(tmp_path))
    result = cli("keys", "est", "authorize", pki, "--csr", asked, "--out", tmp_path / "out")
    assert result.code == 5
    assert "signature: expected SHA-256 or better, got sha1" in result.err


def test_an_extension_twice_is_refused(cli: Cli, pki: Path, tmp_path: Path) -> None:
    config = tmp_path / "req.cnf"
    config.write_text(
        f"[req]\nprompt=no\ndistinguished_name=dn\nreq_extensions=ext\n[dn]\nCN={NAME}\nOU={FACTORY}\n"
        f"[ext]\n1.2.3.4=ASN1:NULL\nsubjectAltName=DNS:{NAME}\n2.5.29.17=DER:300b820961622e636f2e756b21\n"
    )
    asked = tmp_path / "est.csr"
    (tmp_path / "key.pem").write_bytes(private_key_pem(P256))
    made = subprocess.run(
        ["openssl", "req", "-new", "-config", config, "-key", tmp_path / "key.pem", "-out", asked],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    result = cli("keys", "est", "authorize", pki, "--csr", asked, "--out", tmp_path / "out")
    assert result.code == 5
    assert "subjectAltName: there twice" in result.err


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: csr(x509.BasicConstraints(ca=True, path_length=None), san=SAN),
            "names: a SAN is not allowed for a device CA",
        ),
        (
            lambda: csr(x509.BasicConstraints(ca=True, path_length=2), san=None),
            "expected path length 0, got 2",
        ),
        (
            lambda: csr(
                x509.BasicConstraints(ca=True, path_length=None),
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
                san=None,
            ),
            "extended key usage: clientAuth not allowed for a device CA",
        ),
        (
            lambda: csr(
                x509.BasicConstraints(ca=True, path_length=None),
                usage("key_cert_sign", "data_encipherment"),
                san=None,
            ),
            "key usage: dataEncipherment not allowed for a device CA",
        ),
        (
            lambda: csr(
                x509.BasicConstraints(ca=True, path_length=None), name=subject((CN, "fio-1")), san=None
            ),
            "subject OU: expected 'acme', got none",
        ),
        (
            lambda: csr(
                x509.BasicConstraints(ca=True, path_length=None),
                name=subject((CN, "fio-1"), (OU, "b")),
                san=None,
            ),
            "subject OU: expected 'acme', got 'b'",
        ),
        (
            lambda: csr(x509.BasicConstraints(ca=False, path_length=None), san=None),
            "names: missing in the SAN",
        ),
        (lambda: csr(name=subject((CN, "a"), (OU, "b"))), "subject OU: expected 'acme', got 'b'"),
        (lambda: csr(san=dns("*.example.com")), "a wildcard"),
        (
            lambda: csr(san=x509.SubjectAlternativeName([OTHER_NAME])),
            "expected a DNS name, got a name of the kind OtherName",
        ),
    ],
)
def test_keys_ca_sign_refuses(
    make: Callable[[], x509.CertificateSigningRequest], line: str, cli: Cli, pki: Path, tmp_path: Path
) -> None:
    asked = tmp_path / "a.csr"
    asked.write_bytes(pem(make()))
    result = cli("keys", "ca", "sign", asked, "--pki-dir", pki)
    assert (result.code, result.out) == (5, "")
    assert line in result.err
