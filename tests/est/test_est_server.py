"""The EST server on the wire, in process (the facts: CONTRIBUTING, "EST")."""

import base64
import datetime
import textwrap

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pyasn1.codec.der import decoder

from fioctl_rotate.est.client import build_csr, decode_certificates
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.pki.certificates import DIGITAL_SIGNATURE, name, pem
from fioctl_rotate.pki.keys import generate_key

CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
KEY_ENCIPHERMENT = x509.KeyUsage(True, False, True, False, False, False, False, False, False)


def csr(subject=None, *extensions, key=None, algorithm=None):
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        name("uuid-1", "acme") if subject is None else subject
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signed = builder.sign(key or generate_key(), algorithm or hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def b64(der):
    return base64.b64encode(der)


def issued(response):
    assert response.status_code in (200, 201), response.text
    certificates = decode_certificates(response.content)
    assert len(certificates) == 1, "the leaf alone, or a device takes another certificate for its own"
    return certificates[0]


def refused(response, *words):
    assert response.status_code == 400
    assert response.headers["content-type"].startswith("text/plain")
    assert response.text.count("\n") == 1
    assert response.text.endswith("\n")
    for word in words:
        assert word in response.text
    return response


def test_cacerts_needs_no_client_certificate_and_holds_the_roots_alone(est, pki):
    response = est.request("GET", "cacerts")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/pkcs7-mime"
    assert response.headers.get_list("date") == ["Sun, 01 Mar 2026 12:00:00 GMT"]
    assert decode_certificates(response.content) == [pki.root]


def test_cacerts_holds_every_root(pki, est_with):
    other = type(pki).make().root
    response = est_with(pki.authority(roots=[pki.root, other])).request("GET", "cacerts")
    assert set(decode_certificates(response.content)) == {pki.root, other}


def test_an_enrollment_is_answered_as_estserver_does(est, pki):
    client, _ = pki.device()
    for operation in ("simpleenroll", "simplereenroll"):
        response = est.post(operation, b64(csr()), client)
        assert response.status_code == 201
        assert response.headers["content-type"] == "application/pkcs7-mime"
        assert issued(response).subject == client.subject


def test_rfc7030_has_its_own_status_and_type(pki, est_with):
    client, _ = pki.device()
    est = est_with(rfc7030=True)
    response = est.post("simplereenroll", b64(csr()), client)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert response.headers["content-transfer-encoding"] == "base64"
    issued(response)
    assert est.request("GET", "cacerts").headers["content-type"].endswith("smime-type=certs-only")


def test_enroll_of_any_subject(est_with, pki):
    client, _ = pki.device()
    est = est_with(enroll=Enroll.ANY)
    new = issued(est.post("simpleenroll", b64(csr(name("another", "acme"))), client))
    assert new.subject == name("another", "acme")


PRINTABLE = x509.Name(
    [
        x509.NameAttribute(attribute.oid, attribute.value, _type=x509.name._ASN1Type.PrintableString)
        for attribute in name("uuid-1", "acme")
    ]
)


@pytest.mark.parametrize(
    "subject",
    [
        name("uuid-2", "acme"),
        name("uuid-1", "acme2"),
        x509.Name(list(name("uuid-1", "acme"))[::-1]),
        x509.Name([*name("uuid-1", "acme"), x509.NameAttribute(NameOID.BUSINESS_CATEGORY, "production")]),
        PRINTABLE,
    ],
    ids=["CN", "OU", "order", "businessCategory", "string types"],
)
def test_reenroll_wants_the_subject_byte_for_byte(est, pki, subject):
    client, _ = pki.device()
    refused(est.post("simplereenroll", b64(csr(subject)), client), "subject")


def test_reenroll_wants_the_same_san(est, pki):
    names = x509.SubjectAlternativeName([x509.DNSName("device.example")])
    others = x509.SubjectAlternativeName([x509.DNSName("other.example")])
    with_san, _ = pki.device(san=names)
    without, _ = pki.device()
    refused(est.post("simplereenroll", b64(csr()), with_san), "SubjectAltName")
    refused(est.post("simplereenroll", b64(csr(None, others)), with_san), "SubjectAltName")
    refused(est.post("simplereenroll", b64(csr(None, names)), without), "SubjectAltName")
    issued(est.post("simplereenroll", b64(csr(None, names)), with_san))


@pytest.mark.parametrize(
    ("extension", "words"),
    [
        (KEY_ENCIPHERMENT, "KeyUsage"),
        (x509.KeyUsage(False, False, False, False, False, True, False, False, False), "KeyUsage"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), "ExtendedKeyUsage"),
        (
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            "ExtendedKeyUsage",
        ),
        (x509.BasicConstraints(ca=True, path_length=None), "CA certificate"),
    ],
)
def test_what_a_device_does_not_get_is_refused(est, pki, extension, words):
    client, _ = pki.device()
    refused(est.post("simplereenroll", b64(csr(None, extension)), client), words)
    refused(est.post("simpleenroll", b64(csr(None, extension)), client), words)


def test_other_extensions_are_dropped(est_with, pki):
    client, _ = pki.device()
    est = est_with(enroll=Enroll.ANY)
    extras = (
        x509.SubjectAlternativeName([x509.DNSName("bank.example")]),
        x509.BasicConstraints(ca=False, path_length=None),
        x509.TLSFeature([x509.TLSFeatureType.status_request]),
    )
    new = issued(est.post("simpleenroll", b64(csr(None, DIGITAL_SIGNATURE, CLIENT_AUTH, *extras)), client))
    kinds = {type(extension.value) for extension in new.extensions}
    assert kinds == {
        x509.BasicConstraints,
        x509.KeyUsage,
        x509.ExtendedKeyUsage,
        x509.AuthorityKeyIdentifier,
        x509.SubjectKeyIdentifier,
    }


def test_what_is_issued(est, pki):
    client, _ = pki.device()
    key = generate_key()
    new = issued(est.post("simplereenroll", build_csr(key, client), client))
    new.verify_directly_issued_by(pki.ca)
    assert new.public_key() == key.public_key()
    constraints = new.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    usage = new.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value == DIGITAL_SIGNATURE
    assert new.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value == CLIENT_AUTH
    assert new.not_valid_before_utc == est.now
    assert new.not_valid_after_utc == est.now + datetime.timedelta(days=3 * 365)
    assert new.serial_number.bit_length() <= 159


def test_usages_are_issued_as_asked(est, pki):
    client, _ = pki.device()
    bare = issued(est.post("simplereenroll", b64(csr()), client))
    kinds = {type(extension.value) for extension in bare.extensions}
    assert not kinds & {x509.KeyUsage, x509.ExtendedKeyUsage}


def test_lifetime_is_an_option_and_never_reaches_past_the_ca(pki, est_with):
    client, _ = pki.device()
    day = est_with(pki.authority(lifetime=datetime.timedelta(hours=24)))
    new = issued(day.post("simplereenroll", b64(csr()), client))
    assert new.not_valid_after_utc == day.now + datetime.timedelta(hours=24)

    late = est_with()
    late.now = pki.ca.not_valid_after_utc - datetime.timedelta(days=1)
    new = issued(late.post("simplereenroll", b64(csr()), client))
    assert new.not_valid_after_utc == pki.ca.not_valid_after_utc

    late.now = pki.ca.not_valid_after_utc
    response = late.post("simplereenroll", b64(csr()), client)
    assert response.status_code == 500
    assert "expired" in response.text


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b" ", b" \n\t"])
def test_base64_may_have_white_space(est, pki, ending):
    client, _ = pki.device()
    lines = textwrap.wrap(b64(csr()).decode(), 64)
    issued(est.post("simplereenroll", b"".join(line.encode() + ending for line in lines), client))


def with_broken_signature():
    der = bytearray(csr())
    der[-1] ^= 1
    return bytes(der)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "CSR"),
        (b"!!!!", "base64"),
        (b"abc", "base64"),
        (b64(b"not a CSR"), "CSR"),
        (csr(), "base64"),
        (b64(with_broken_signature()), "signature"),
        (b64(csr(key=ec.generate_private_key(ec.SECP384R1()), algorithm=hashes.SHA384())), "algorithm"),
        (b64(csr(key=rsa.generate_private_key(65537, 2048))), "algorithm"),
    ],
    ids=["empty", "not base64", "short", "not DER", "bare DER", "broken signature", "SHA-384", "RSA"],
)
def test_broken_requests_are_refused_in_a_line(est, pki, body, words):
    client, _ = pki.device()
    refused(est.post("simpleenroll", body, client), words)


def test_a_client_certificate_is_needed_exactly_one(est, pki):
    client, _ = pki.device()
    for operation in ("simpleenroll", "simplereenroll"):
        refused = est.post(operation, b64(csr()), None)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"]
        assert est.post(operation, b64(csr()), None, chain=[pem(client), pem(pki.ca)]).status_code == 401


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/pkcs7-mime", ""])
def test_the_content_type_must_be_pkcs10(est, pki, content_type):
    client, _ = pki.device()
    refused(est.post("simplereenroll", b64(csr()), client, content_type=content_type), "application/pkcs10")


def test_content_type_parameters_are_ignored(est, pki):
    client, _ = pki.device()
    issued(est.post("simplereenroll", b64(csr()), client, content_type="Application/PKCS10; charset=x"))


def test_a_body_beyond_the_limit_is_refused(est, pki):
    client, _ = pki.device()
    assert est.post("simplereenroll", b"A" * (16 * 1024 + 1), client).status_code == 413


def test_csrattrs_is_der_that_names_the_key_and_the_signature(est):
    response = est.request("GET", "csrattrs")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/csrattrs"
    attributes, rest = decoder.decode(base64.b64decode(response.content))
    assert not rest
    assert str(attributes[0][0]) == "1.2.840.10045.2.1"
    assert str(attributes[0][1][0]) == "1.2.840.10045.3.1.7"
    assert str(attributes[1]) == "1.2.840.10045.4.3.2"


def test_unknown_operations_and_methods(est):
    assert est.request("GET", "fullcmc").status_code == 404
    assert est.request("GET", "../../cacerts").status_code == 404
    for method, operation, allowed in (("GET", "simpleenroll", "POST"), ("POST", "cacerts", "GET")):
        response = est.request(method, operation)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)


def test_a_server_without_a_ca_says_so(pki, est_with):
    client, _ = pki.device()
    est = est_with(None)
    for response in (est.request("GET", "cacerts"), est.post("simplereenroll", b64(csr()), client)):
        assert response.status_code == 500
        assert "no device CA" in response.text


def test_each_request_is_logged_once(est_with, pki):
    client, _ = pki.device(name("uuid-9", "acme"))
    est = est_with(enroll=Enroll.ANY)
    new = issued(est.post("simpleenroll", b64(csr()), client))
    est.post("simplereenroll", b64(csr()), client)
    est.request("GET", "cacerts")
    enrolled, mismatch, roots = est.log
    assert (enrolled.operation, enrolled.device, enrolled.factory) == ("simpleenroll", "uuid-9", "acme")
    assert (enrolled.status, enrolled.outcome, enrolled.serial) == (201, "issued", f"{new.serial_number:x}")
    assert enrolled.time == "2026-03-01T12:00:00Z"
    assert (mismatch.status, mismatch.serial) == (400, "")
    assert "subject" in mismatch.outcome
    assert (roots.operation, roots.device, roots.outcome) == ("cacerts", "", "sent")


@pytest.mark.parametrize("hosts", [[], ["x", "x"]])
def test_a_request_has_one_host(est, hosts):
    response = est.request("GET", "cacerts", headers=[("Host", host) for host in hosts] or None)
    assert response.status_code == (200 if not hosts else 400)
