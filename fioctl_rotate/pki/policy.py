"""What a CSR may ask of the root: every violation told, field by field.

fioctl signs whatever CSR the backend returns; we look first. Sources: fioctl's signing (x509/golang.go), RFC 5280
§4.2, RFC 6125 §6.4 for names.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fioctl_rotate.errors import Error, Refused, printable
from fioctl_rotate.pki.certificates import usages
from fioctl_rotate.pki.pem import extensions, find, oid_name
from fioctl_rotate.pki.subject import raw_subject

_HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.IGNORECASE)
_DUE_KEY = "EC on P-256"
STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


class Purpose(Enum):
    """What a CSR is to become; the value is what people call it."""

    EST_TLS = "EST server"
    GATEWAY_TLS = "device gateway"
    TLS = "TLS server"
    DEVICE_CA = "device CA"


class PolicyRefused(Refused):
    """A CSR or a certificate breaks rules: one line an error has, and one for each rule below it."""

    def __init__(self, what: str, violations: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(f"{what} is refused: {'; '.join(violations)}", hint=hint)
        self.what = what
        self.violations = list(violations)

    def diagnostics(self) -> str:
        """The line `error: …`, a line a violation, and the hint."""
        lines = [f"error: {printable(self.what)} is refused:"]
        lines += [f"  {printable(violation)}" for violation in self.violations]
        if self.hint:
            lines.append(f"hint: {printable(self.hint)}")
        return "\n".join(lines)


def require(what: str, violations: Sequence[str], *, hint: str | None = None) -> None:
    """Raise PolicyRefused where there are violations."""
    if violations:
        raise PolicyRefused(what, violations, hint=hint)


# --- CSRs ---------------------------------------------------------------------------------------------------------


def csr_violations(
    csr: x509.CertificateSigningRequest,
    purpose: Purpose,
    factory: str,
    *,
    expected_names: Iterable[str] | None = None,
) -> list[str]:
    """Every rule that the CSR breaks as one for `purpose` in `factory`; empty where it may be signed.

    `expected_names` are the DNS names that it must ask for, exactly; None takes any proper ones.
    """
    found, unreadable = extensions(lambda: csr.extensions)
    violations = [*_signature(csr), *key_violations(csr.public_key), *_csr_subject(csr, purpose, factory)]
    if unreadable:
        return violations + unreadable
    violations += _asked(found, purpose)
    if purpose is Purpose.DEVICE_CA:
        violations += _no_names(found)
    else:
        violations += name_violations(found, purpose, expected_names)
        violations += _common_name_is_a_name(csr, found)
    return violations


def wants_ca(csr: x509.CertificateSigningRequest) -> bool:
    """Whether the CSR asks for CA:TRUE, which is how `keys ca sign` tells what it is to become."""
    found, _ = extensions(lambda: csr.extensions)
    constraints = find(found, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def names(csr: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """All names in the SAN of a CSR that policy let pass."""
    found, _ = extensions(lambda: csr.extensions)
    san = find(found, x509.SubjectAlternativeName)
    return list(san) if san is not None else []


def public_key(csr: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The key of a CSR that policy let pass. Raises Error for any other."""
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Error("the CSR's key is not an EC key")
    return key


def organizational_units(name: x509.Name) -> list[str]:
    """The OUs of a name."""
    return [str(a.value) for a in name.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]


def _signature(csr: x509.CertificateSigningRequest) -> Iterator[str]:
    try:
        algorithm = csr.signature_hash_algorithm
        if algorithm is not None and not isinstance(algorithm, STRONG_HASHES):
            yield f"signature: made with {algorithm.name}, where SHA-256 or better is due"
        elif not csr.is_signature_valid:
            yield "signature: not made with the CSR's own key"
    except (UnsupportedAlgorithm, ValueError, TypeError):
        yield "signature: of an unknown kind"


def key_violations(load: Callable[[], object]) -> Iterator[str]:
    """What is wrong with a public key; `load` parses it, as far as the library can."""
    kind = key_kind(load)
    if kind != _DUE_KEY:
        yield f"key: {kind}, where {_DUE_KEY} is due"


def key_kind(load: Callable[[], object]) -> str:
    """What kind of public key it is, for people; `load` parses it, as far as the library can."""
    try:
        key = load()
    except (UnsupportedAlgorithm, ValueError, TypeError):
        return "of an unknown kind or not a point on its curve"
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return _DUE_KEY
        case ec.EllipticCurvePublicKey():
            return f"EC on {key.curve.name}"
        case rsa.RSAPublicKey():
            return f"RSA of {key.key_size} bits"
        case dsa.DSAPublicKey():
            return f"DSA of {key.key_size} bits"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return "EdDSA"
        case _:
            return "of another kind"


def _csr_subject(csr: x509.CertificateSigningRequest, purpose: Purpose, factory: str) -> Iterator[str]:
    if csr.subject.public_bytes() != raw_subject(csr):
        yield "subject: cannot be kept byte for byte in a certificate"
    # A CA's subject must carry the factory; a server's need not, as fioctl's own tests show, but no other one's.
    yield from subject_violations(csr.subject, factory, ou_due=purpose is Purpose.DEVICE_CA)


def subject_violations(subject: x509.Name, factory: str, *, ou_due: bool) -> Iterator[str]:
    """What is wrong with a subject: its one OU is the factory (it may lack where `ou_due` is False), one CN."""
    units = organizational_units(subject)
    if not units and ou_due:
        yield f"subject OU: missing, where {factory!r} is due"
    elif len(units) > 1:
        yield f"subject OU: {len(units)} of them, where {factory!r} alone is due"
    elif units and units[0] != factory:
        yield f"subject OU: {units[0]!r}, where {factory!r} is due"
    common_names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common_names) != 1:
        yield f"subject CN: {len(common_names) or 'none'}, where one is due"
    for attribute in subject:
        text = attribute.value
        if isinstance(text, str) and (not text.strip() or not text.isprintable()):
            yield f"subject {attribute.rfc4514_attribute_name}: {text!r} is empty or holds control characters"


def _asked(found: Iterable[x509.Extension[x509.ExtensionType]], purpose: Purpose) -> Iterator[str]:
    """The extensions other than names: what is neither due nor harmless."""
    for extension in found:
        value = extension.value
        match value:
            case x509.SubjectAlternativeName():
                pass
            case x509.BasicConstraints():
                if value.ca and purpose is not Purpose.DEVICE_CA:
                    yield f"basic constraints: CA:TRUE, which is not due for {_article(purpose)}"
                if not value.ca and purpose is Purpose.DEVICE_CA:
                    yield "basic constraints: CA:FALSE, where a CA is due"
                if value.path_length:
                    yield f"basic constraints: path length {value.path_length}, where 0 is due"
            case x509.KeyUsage():
                wrong = sorted(usages(value) - _allowed_usages(purpose))
                if wrong:
                    yield f"key usage: {', '.join(wrong)}, not due for {_article(purpose)}"
            case x509.ExtendedKeyUsage():
                allowed = set() if purpose is Purpose.DEVICE_CA else {ExtendedKeyUsageOID.SERVER_AUTH}
                for oid in value:
                    if oid not in allowed:
                        yield f"extended key usage: {oid_name(oid)}, not due for {_article(purpose)}"
            case _:
                yield f"extension {oid_name(extension.oid)}: not due in a CSR"


def name_violations(
    found: Iterable[x509.Extension[x509.ExtensionType]],
    purpose: Purpose,
    expected: Iterable[str] | None,
) -> Iterator[str]:
    """What is wrong with the names in the SAN of a server for `purpose`; `expected` are those due, None any."""
    san = find(found, x509.SubjectAlternativeName)
    general = list(san) if san is not None else []
    dns = [name.value for name in general if isinstance(name, x509.DNSName)]
    if purpose is Purpose.TLS:
        if not general:
            yield "names: none in the SAN, and a CN alone is not one"
        others = [
            n for n in general if isinstance(n, (x509.OtherName, x509.RegisteredID, x509.DirectoryName))
        ]
    else:
        if not dns:
            yield "DNS names: none in the SAN, and a CN alone is not one"
        elif purpose is Purpose.EST_TLS and len(dns) > 1:
            yield f"DNS names: {len(dns)} ({', '.join(dns)}), where exactly one is due"
        others = [n for n in general if not isinstance(n, x509.DNSName)]
    for name in others:
        yield f"names: {_general_name(name)}, which is not a DNS name"
    for text in dns:
        reason = host_name_fault(text)
        if reason:
            yield f"DNS name {text!r}: {reason}"
    if len({name.lower() for name in dns}) < len(dns):
        yield "DNS names: the same one twice"
    wanted = None if expected is None else sorted(name.lower() for name in expected)
    if dns and wanted is not None and sorted(name.lower() for name in dns) != wanted:
        yield f"DNS names: {', '.join(dns)}, where {', '.join(wanted)} is expected"


def _no_names(found: Iterable[x509.Extension[x509.ExtensionType]]) -> Iterator[str]:
    if find(found, x509.SubjectAlternativeName) is not None:
        yield "names: a SAN, not due for a device CA"


def _common_name_is_a_name(
    csr: x509.CertificateSigningRequest, found: Iterable[x509.Extension[x509.ExtensionType]]
) -> Iterator[str]:
    """A server's CN that looks like a host's name must be one of the names it is checked by."""
    san = find(found, x509.SubjectAlternativeName)
    dns = [name.lower() for name in san.get_values_for_type(x509.DNSName)] if san is not None else []
    for attribute in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        text = str(attribute.value)
        if dns and "." in text and " " not in text and text.lower() not in dns:
            yield f"subject CN: {text!r} looks like a host name and is not in the SAN"


def host_name_fault(name: str) -> str | None:
    """What is wrong with a DNS name that a certificate shall carry, or None. RFC 5280 §4.2.1.6, RFC 1123 §2.1."""
    if "*" in name:
        return "a wildcard, which devices' TLS libraries judge differently"
    if not name.isascii():
        return "not in its ASCII form (xn--…)"
    if name.endswith("."):
        return "ends in a dot"
    if len(name) > 253:
        return "longer than 253 characters"
    labels = name.split(".")
    for label in labels:
        if len(label) > 63:
            return "a label longer than 63 characters"
        if not _HOST_LABEL.fullmatch(label):
            return "not a host name"
    if labels[-1].isdigit():
        return "an IP address, which belongs in an IP SAN"
    return None


def _allowed_usages(purpose: Purpose) -> set[str]:
    """What may be asked for; what is granted is the purpose's own KeyUsage whatever was asked."""
    if purpose is Purpose.DEVICE_CA:
        return {"keyCertSign", "cRLSign", "digitalSignature"}
    return {"digitalSignature", "keyEncipherment", "keyAgreement"}


def _article(purpose: Purpose) -> str:
    return f"{'an' if purpose is Purpose.EST_TLS else 'a'} {purpose.value}"


def _general_name(name: x509.GeneralName) -> str:
    match name:
        case x509.IPAddress():
            return f"the IP address {name.value}"
        case x509.RFC822Name():
            return f"the email address {name.value}"
        case x509.UniformResourceIdentifier():
            return f"the URI {name.value}"
        case _:
            return f"a name of the kind {type(name).__name__}"
