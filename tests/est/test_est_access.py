"""Who gets a certificate from the EST server, and for what."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from fioctl_rotate.errors import Error
from fioctl_rotate.est.client import build_csr
from fioctl_rotate.est.deny import DenyList, deny_list_text, parse_deny_list
from fioctl_rotate.est.enroll_policy import Enroll
from fioctl_rotate.est.service import key_digest
from fioctl_rotate.pki.certificates import name
from fioctl_rotate.pki.keys import generate_key
from tests.est.test_est_server import b64, csr
from tests.making import certificate


@pytest.mark.parametrize(
    ("policy", "own", "another"),
    [(Enroll.OWN, 201, 400), (Enroll.ANY, 201, 201), (Enroll.OFF, 403, 403)],
)
def test_the_policy_for_simpleenroll(est_with, pki, policy, own, another):
    client, _ = pki.device()
    est = est_with(enroll=policy)
    assert est.post("simpleenroll", b64(csr()), client).status_code == own
    assert est.post("simpleenroll", b64(csr(name("another", "acme"))), client).status_code == another
    assert est.post("simplereenroll", b64(csr()), client).status_code == 201


def test_own_is_the_default(est, pki):
    client, _ = pki.device()
    assert est.post("simpleenroll", b64(csr(name("another", "acme"))), client).status_code == 400


@pytest.mark.parametrize("policy", [Enroll.OWN, Enroll.ANY])
@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
def test_the_keys_of_cas_and_server_are_never_certified(est_with, pki, policy, operation):
    client, _ = pki.device()
    server_key, other = generate_key(), type(pki).make()
    server, _ = other.device()
    est = est_with(pki.authority(others=[server, other.ca]), enroll=policy)
    for key in (pki.ca_key, pki.root_key, other.ca_key):
        response = est.post(operation, b64(csr(key=key)), client)
        assert (response.status_code, "belongs to a CA" in response.text) == (403, True)
    assert est.post(operation, b64(csr(key=server_key)), client).status_code == 201


@pytest.mark.parametrize("curve", [ec.SECP192R1, ec.SECP224R1, ec.SECP256K1, ec.BrainpoolP256R1])
def test_other_curves_are_refused(est, pki, curve):
    client, _ = pki.device()
    response = est.post("simplereenroll", b64(csr(key=ec.generate_private_key(curve()))), client)
    assert response.status_code == 400
    assert "P-256" in response.text


@pytest.mark.parametrize("curve", [ec.SECP384R1, ec.SECP521R1])
def test_larger_keys_are_taken(est, pki, curve):
    client, _ = pki.device()
    assert (
        est.post("simplereenroll", b64(csr(key=ec.generate_private_key(curve()))), client).status_code == 201
    )


def test_an_empty_subject_is_refused(est_with, pki):
    client, _ = pki.device()
    est = est_with(enroll=Enroll.ANY)
    response = est.post("simpleenroll", b64(csr(x509.Name([]))), client)
    assert (response.status_code, "empty" in response.text) == (400, True)


def unknown_version(der):
    """The CSR with version 4: the first INTEGER of its content."""
    at = der.index(b"\x02\x01\x00")
    return der[: at + 2] + b"\x04" + der[at + 3 :]


def malformed():
    good = csr()
    both = csr(None, x509.BasicConstraints(ca=False, path_length=None))
    point = good.index(b"\x03\x42\x00\x04") + 4
    return {
        "empty": b"",
        "cut short": good[:-10],
        "with more behind it": good + b"\x00",
        "unknown version": unknown_version(good),
        "a key that is no point": good[:point] + b"\x00" * 64 + good[point + 64 :],
        "another signature": good[:-8] + bytes(8),
        "an extension that is not DER": both.replace(b"\x30\x00", b"\x31\x00"),
        "nested": b"\x30\x80" * 4000,
    }


@pytest.mark.parametrize("kind", list(malformed()))
def test_a_malformed_csr_is_a_bad_request(est_with, pki, kind):
    client, _ = pki.device()
    est = est_with(enroll=Enroll.ANY)
    for operation in ("simpleenroll", "simplereenroll"):
        response = est.post(operation, b64(malformed()[kind]), client)
        assert response.status_code == 400, response.text
        assert response.text.count("\n") == 1
    assert [record.status for record in est.log] == [400, 400]


def test_the_deny_list(est_with, pki):
    client, key = pki.device(name("uuid-7", "acme"))
    serial, digest = f"{client.serial_number:X}", key_digest(key.public_key())
    colons = ":".join(f"{client.serial_number:040x}"[i : i + 2] for i in range(0, 40, 2))
    body = build_csr(generate_key(), client)
    for text, denied in (
        ("uuid uuid-7 # left the fleet", True),
        (f"\n# all\nserial {serial}\n", True),
        (f"serial {colons}", True),
        (f"key {digest.upper()}", True),
        ("uuid uuid-8\nserial 1\nkey " + "0" * 64, False),
        ("", False),
    ):
        deny = parse_deny_list(text, "deny.txt")
        est = est_with(denied=deny.reason)
        response = est.post("simplereenroll", body, client)
        assert response.status_code == (403 if denied else 201), text
        assert ("on the deny list" in est.log[0].outcome) is denied


def test_what_is_denied_is_not_issued_to_others_either(est_with, pki):
    client, _ = pki.device()
    leaked = generate_key()
    deny = parse_deny_list(f"uuid uuid-7\nkey {key_digest(leaked.public_key())}", "deny.txt")
    est = est_with(denied=deny.reason, enroll=Enroll.ANY)
    for body in (csr(name("uuid-7", "acme")), csr(key=leaked)):
        response = est.post("simpleenroll", b64(body), client)
        assert response.status_code == 403
        assert est.log[-1].serial == ""


@pytest.mark.parametrize(
    "line",
    ["uuid", "uuid a b", "serial xyz", "serial", "key 12", "uuid-7", "Uuid uuid-7", "serial 0x1", "serial 0"],
)
def test_a_deny_list_with_a_wrong_line(line):
    with pytest.raises(Error, match=r"deny\.txt, line 2"):
        parse_deny_list(f"# fine\n{line}\n", "deny.txt")


def test_a_deny_list_is_read_as_it_is_written():
    uuids = ["b-1", "a-2"]
    assert parse_deny_list(deny_list_text(uuids), "x") == DenyList(frozenset(("uuid", u) for u in uuids))


def test_a_san_that_cannot_be_read_is_a_bad_request(est, pki):
    broken = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x03\x02\x01\x00")
    client = certificate(
        name=name("uuid-1", "acme"),
        issuer=pki.ca.subject,
        signer=pki.ca_key,
        extensions=[broken],
        begins=pki.now,
        ends=pki.now + datetime.timedelta(days=9),
    )
    assert client.public_bytes(Encoding.DER)
    response = est.post("simplereenroll", b64(csr()), client)
    assert response.status_code == 400
