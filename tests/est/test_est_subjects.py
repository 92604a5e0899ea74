"""A new certificate's subject is the old one's, byte for byte, whatever it looks like."""

import base64
import contextlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fioctl_rotate.errors import Error
from fioctl_rotate.est.client import build_csr, check_new_certificate, decode_certificates
from fioctl_rotate.pki.certificates import name, sign_device
from fioctl_rotate.pki.keys import generate_key
from fioctl_rotate.pki.subject import raw_subject
from tests.making import certificate, usage

UTF8, PRINTABLE, BMP, IA5 = (
    _ASN1Type.UTF8String,
    _ASN1Type.PrintableString,
    _ASN1Type.BMPString,
    _ASN1Type.IA5String,
)
CN, OU, CATEGORY = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.BUSINESS_CATEGORY


def attribute(oid, value, kind=UTF8):
    return x509.NameAttribute(oid, value, _type=kind)


def rotated(est, pki, subject):
    """The certificate that a device with this subject gets for its own."""
    current, _ = pki.device(subject)
    response = est.post("simplereenroll", build_csr(generate_key(), current), current)
    assert response.status_code == 201, response.text
    (new,) = decode_certificates(response.content)
    check_new_certificate(current, new)
    return current, new


SUBJECTS = {
    "UTF8String": x509.Name([attribute(CN, "uuid-1"), attribute(OU, "acme")]),
    "PrintableString": x509.Name([attribute(CN, "uuid-1", PRINTABLE), attribute(OU, "acme", PRINTABLE)]),
    "reordered": x509.Name([attribute(OU, "acme"), attribute(CN, "uuid-1")]),
    "mixed": x509.Name([attribute(OU, "acme", PRINTABLE), attribute(CN, "uuid-1", UTF8)]),
    "production": x509.Name(
        [attribute(CN, "uuid-1"), attribute(OU, "acme"), attribute(CATEGORY, "production")]
    ),
    "multi-valued": x509.Name(
        [
            x509.RelativeDistinguishedName([attribute(CN, "uuid-1"), attribute(CATEGORY, "production")]),
            x509.RelativeDistinguishedName([attribute(OU, "acme")]),
        ]
    ),
    "repeated OU": x509.Name([attribute(OU, "acme"), attribute(CN, "uuid-1"), attribute(OU, "unit")]),
    "serialNumber": x509.Name(
        [attribute(CN, "uuid-1"), attribute(OU, "acme"), attribute(NameOID.SERIAL_NUMBER, "7", PRINTABLE)]
    ),
    "BMPString": x509.Name([attribute(CN, "uüid", BMP), attribute(OU, "acme")]),
    "unknown attribute": x509.Name(
        [attribute(CN, "uuid-1"), attribute(x509.ObjectIdentifier("1.2.3.4"), "x")]
    ),
    "long": x509.Name([attribute(CN, "u" * 64), *(attribute(OU, "o" * 60) for _ in range(5))]),
}


@pytest.mark.parametrize("kind", SUBJECTS)
def test_the_subject_survives(est, pki, kind):
    subject = SUBJECTS[kind]
    current, new = rotated(est, pki, subject)
    der = subject.public_bytes()
    assert raw_subject(current) == raw_subject(new) == der
    assert der in new.tbs_certificate_bytes


ATTRIBUTES = st.builds(
    attribute,
    st.sampled_from([CN, OU, CATEGORY, NameOID.ORGANIZATION_NAME, NameOID.TITLE]),
    st.text("abcXYZ019 '()+,-./:=?", min_size=1, max_size=30),
    st.sampled_from([UTF8, PRINTABLE, IA5, BMP]),
)
RDNS = st.lists(ATTRIBUTES, min_size=1, max_size=3, unique_by=lambda a: a.oid).map(
    x509.RelativeDistinguishedName
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RDNS, min_size=1, max_size=5).map(x509.Name))
def test_any_valid_subject_survives(est, pki, subject):
    current, new = rotated(est, pki, subject)
    assert raw_subject(current) == raw_subject(new) == subject.public_bytes()


def test_an_unsorted_multi_valued_subject_is_refused_with_a_message(est, pki):
    client, _ = pki.device()
    rdn = x509.RelativeDistinguishedName([attribute(CN, "aa"), attribute(OU, "bb")])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([rdn]))
        .sign(generate_key(), hashes.SHA256())
    )
    first, second = (x509.Name([x509.RelativeDistinguishedName([a])]).public_bytes()[4:] for a in rdn)
    der = csr.public_bytes(Encoding.DER)
    assert first + second in der
    broken = der.replace(first + second, second + first)
    response = est.post("simpleenroll", base64.b64encode(broken), client)
    assert response.status_code == 400
    assert response.text.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subject": name("uuid-2", "acme")}, "subject"),
        ({"key_usage": False}, "digitalSignature"),
        ({"extended_key_usage": False}, "clientAuth"),
    ],
)
def test_a_device_checks_the_certificate_that_it_gets(pki, changes, words):
    current, _ = pki.device()
    arguments = {"subject": current.subject, **changes}
    subject = arguments.pop("subject")
    new = sign_device(
        subject,
        generate_key().public_key(),
        pki.ca,
        pki.ca_key,
        now=current.not_valid_before_utc,
        lifetime=current.not_valid_after_utc - current.not_valid_before_utc,
        **arguments,
    )
    with pytest.raises(Error, match=words):
        check_new_certificate(current, new)


CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@pytest.mark.parametrize(
    ("bits", "purposes", "message"),
    [
        (["digital_signature"], [CLIENT], None),
        (["digital_signature", "key_agreement"], [CLIENT], "KeyUsage digitalSignature and no other"),
        (["digital_signature"], [CLIENT, SERVER], "ExtendedKeyUsage clientAuth and no other"),
    ],
)
def test_a_device_wants_exactly_its_two_usages(pki, bits, purposes, message):
    """fioconfig compares both extensions byte for byte."""
    current, _ = pki.device()
    new = certificate(name=current.subject, extensions=[usage(*bits), x509.ExtendedKeyUsage(purposes)])
    with pytest.raises(Error, match=message) if message else contextlib.nullcontext():
        check_new_certificate(current, new)


@pytest.mark.parametrize("body", [b"", b"%%%", base64.b64encode(b"nothing"), b"<html>"])
def test_an_answer_that_is_not_pkcs7_is_an_error(body):
    with pytest.raises(Error, match="EST server's answer"):
        decode_certificates(body)
