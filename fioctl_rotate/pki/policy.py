"""What a CSR may ask for: each violation is listed, field by field.

fioctl signs whatever CSR the backend returns; we check it first. Sources: fioctl's signing (x509/golang.go), RFC
5280 §4.2, RFC 6125 §6.4 for names.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fioctl_rotate.errors import Error, Refused, printable
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.pki.certificates import usages
from fioctl_rotate.pki.keys import P256, key_kind
from fioctl_rotate.pki.parsing import UNPARSED, dns_names, extensions, find, oid_name
from fioctl_rotate.pki.subject import raw_subject

STRONG_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ALLOWED_NAMES = (x509.DNSName, x509.IPAddress, x509.UniformResourceIdentifier, x509.RFC822Name)


class Purpose(Enum):
    """What the certificate for a CSR will be; the value is its name for people."""

    EST_TLS = "EST server"
    GATEWAY_TLS = "device gateway"
    TLS = "TLS server"
    DEVICE_CA = "device CA"


class PolicyRefused(Refused):
    """A CSR or a certificate breaks rules. The error has a line more for each of them."""

    def __init__(self, what: str, violations: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(f"{what} is refused: {'; '.join(violations)}", hint=hint)
        self.what = what
        self.violations = list(violations)

    def diagnostics(self) -> str:
        """The line `error: …`, a line for each violation, and the hint."""
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
    expected_names: Sequence[str] | None = None,
) -> list[str]:
    """Every rule for `purpose` in `factory` that the CSR breaks; empty where it may be signed.

    `expected_names` are the DNS names that it must ask for, and no others; None: any valid names.
    """
    found, unreadable = extensions(csr)
    violations = [*_signature(csr), *key_violations(csr.public_key()), *_csr_subject(csr, purpose, factory)]
    if unreadable:
        return violations + unreadable
    violations += _requested(found, purpose)
    if purpose is Purpose.DEVICE_CA:
        violations += _no_names(found)
    else:
        violations += name_violations(found, purpose)
        violations += _expected_names(csr, expected_names)
        violations += _common_name_in_san(csr)
    return violations


def names(csr: x509.CertificateSigningRequest) -> list[x509.GeneralName]:
    """All names in the SAN of a CSR that broke no rule."""
    return list(find(extensions(csr)[0], x509.SubjectAlternativeName) or [])


def public_key(csr: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The key of a CSR that broke no rule. Raises Error for any other."""
    key = csr.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Error(f"expected a CSR with an {P256} key, got {key_kind(key)}")
    return key


def organizational_units(name: x509.Name) -> list[str]:
    """The OUs of a name."""
    return [str(a.value) for a in name.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)]


def _signature(csr: x509.CertificateSigningRequest) -> Iterator[str]:
    try:
        algorithm = csr.signature_hash_algorithm
        if algorithm is not None and not isinstance(algorithm, STRONG_HASHES):
            yield f"signature: expected SHA-256 or better, got {algorithm.name}"
        elif not csr.is_signature_valid:
            yield "signature: not made by the CSR's own key"
    except UNPARSED:
        yield "signature: of an unknown kind"


def key_violations(key: object) -> Iterator[str]:
    """What is wrong with a public key."""
    if key_kind(key) != P256:
        yield f"key: expected {P256}, got {key_kind(key)}"


def _csr_subject(csr: x509.CertificateSigningRequest, purpose: Purpose, factory: str) -> Iterator[str]:
    if csr.subject.public_bytes() != raw_subject(csr):
        yield "subject: cannot be copied byte for byte into a certificate"
    # A CA's subject must name the factory. A server's may name none, as in fioctl's own tests, but not another one.
    yield from subject_violations(csr.subject, factory, ou_required=purpose is Purpose.DEVICE_CA)


def subject_violations(subject: x509.Name, factory: str | None, *, ou_required: bool) -> Iterator[str]:
    """What is wrong with a subject, which must have one CN, and one OU: the factory's name (None: any).

    Without `ou_required` the OU may be missing.
    """
    units = organizational_units(subject)
    wanted = "one" if factory is None else repr(factory)
    if len(units) > 1:
        yield f"subject OU: expected {wanted}, got {len(units)}"
    elif units and factory is not None and units[0] != factory:
        yield f"subject OU: expected {wanted}, got {units[0]!r}"
    elif not units and ou_required:
        yield f"subject OU: expected {wanted}, got none"
    common_names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(common_names) != 1:
        yield f"subject CN: expected one, got {len(common_names) or 'none'}"
    for attribute in subject:
        text = attribute.value
        if isinstance(text, str) and (not text.strip() or not text.isprintable()):
            yield f"subject {attribute.rfc4514_attribute_name}: {text!r} is empty or has control characters"


def _requested(found: Iterable[x509.Extension[x509.ExtensionType]], purpose: Purpose) -> Iterator[str]:
    """What is wrong with the extensions other than names."""
    for extension in found:
        value = extension.value
        match value:
            case x509.SubjectAlternativeName():
                pass
            case x509.BasicConstraints():
                yield from _basic_constraints(value, purpose)
            case x509.KeyUsage():
                wrong = sorted(usages(value) - _allowed_usages(purpose))
                if wrong:
                    yield f"key usage: {', '.join(wrong)} not allowed for {_article(purpose)}"
            case x509.ExtendedKeyUsage():
                allowed = set() if purpose is Purpose.DEVICE_CA else {ExtendedKeyUsageOID.SERVER_AUTH}
                for oid in value:
                    if oid not in allowed:
                        yield f"extended key usage: {oid_name(oid)} not allowed for {_article(purpose)}"
            case _:
                yield f"extension {oid_name(extension.oid)}: not allowed in a CSR"


def _basic_constraints(value: x509.BasicConstraints, purpose: Purpose) -> Iterator[str]:
    if value.ca and purpose is not Purpose.DEVICE_CA:
        yield f"basic constraints: CA:TRUE not allowed for {_article(purpose)}"
    if not value.ca and purpose is Purpose.DEVICE_CA:
        yield "basic constraints: expected CA:TRUE, got CA:FALSE"
    if value.path_length:
        yield f"basic constraints: expected path length 0, got {value.path_length}"


def name_violations(found: Iterable[x509.Extension[x509.ExtensionType]], purpose: Purpose) -> Iterator[str]:
    """What is wrong with the names in the SAN of a server for `purpose`."""
    general = list(find(found, x509.SubjectAlternativeName) or [])
    dns = [name.value for name in general if isinstance(name, x509.DNSName)]
    if not (general if purpose is Purpose.TLS else dns):
        yield "DNS names: missing in the SAN; a name in the CN does not count"
    if purpose is Purpose.EST_TLS and len(dns) > 1:
        yield f"DNS names: expected exactly one, got {len(dns)} ({', '.join(dns)})"
    for name in general:
        if not isinstance(name, _ALLOWED_NAMES if purpose is Purpose.TLS else x509.DNSName):
            yield f"names: expected a DNS name, got {_general_name(name)}"
    for text in dns:
        reason = host_name_fault(text)
        if reason:
            yield f"DNS name {text!r}: {reason}"
    if len({name.lower() for name in dns}) < len(dns):
        yield "DNS names: the same name twice"


def _expected_names(csr: x509.CertificateSigningRequest, expected: Sequence[str] | None) -> Iterator[str]:
    dns = dns_names(csr)
    if expected is not None and dns and _folded(dns) != _folded(expected):
        yield f"DNS names: expected {', '.join(expected)}, got {', '.join(dns)}"


def _folded(names: Sequence[str]) -> list[str]:
    return sorted(name.lower() for name in names)


def _no_names(found: Iterable[x509.Extension[x509.ExtensionType]]) -> Iterator[str]:
    if find(found, x509.SubjectAlternativeName) is not None:
        yield "names: a SAN is not allowed for a device CA"


def _common_name_in_san(csr: x509.CertificateSigningRequest) -> Iterator[str]:
    """A server's CN that looks like a host name must be in the SAN, where clients look for names."""
    dns = [name.lower() for name in dns_names(csr)]
    for attribute in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        text = str(attribute.value)
        if dns and "." in text and " " not in text and text.lower() not in dns:
            yield f"subject CN: {text!r} looks like a host name and is not in the SAN"


def _allowed_usages(purpose: Purpose) -> set[str]:
    """The key usages that a CSR may ask for. The certificate has the purpose's own in any case."""
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
