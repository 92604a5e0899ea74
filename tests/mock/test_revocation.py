"""CRLs of the root: device CAs that are disabled or revoked, at the operator API and at the gateway."""

from typing import Any

from cryptography import x509

from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.pki.keys import generate_key
from tests.mock.mocked import FACTORY, Mock

CERTS = f"{FACTORY}/certs/"
DISABLE, RENEW, REVOKE = (
    x509.ReasonFlags.certificate_hold,
    x509.ReasonFlags.remove_from_crl,
    x509.ReasonFlags.privilege_withdrawn,
)


def test_a_crl_holds_frees_and_takes_away_a_device_ca(mock: Mock) -> None:
    def after(reason: x509.ReasonFlags) -> Any:
        mock.revoke(reason)
        return mock.admin("GET", CERTS).json()

    held = after(DISABLE)
    assert held["disabled-ca-serials"] == [str(mock.pki.ca.serial_number)]
    assert pem(mock.pki.ca) in held["ca-crt"]
    assert after(RENEW)["disabled-ca-serials"] == []
    after(DISABLE)
    revoked = after(REVOKE)
    assert revoked["disabled-ca-serials"] == []
    assert pem(mock.pki.ca) not in revoked["ca-crt"]
    assert len(x509.load_pem_x509_certificates(revoked["ca-crt"].encode())) == 1


def test_a_crl_that_is_not_right(mock: Mock) -> None:
    serial = mock.pki.ca.serial_number
    for text in (mock.crl(serial, REVOKE, generate_key()), mock.crl(4711, REVOKE), "no CRL"):
        answer = mock.admin("PATCH", CERTS, {"ca-revoke-crl": text})
        assert answer.status_code == 400
        assert list(answer.json()["errors"]) == ["ca-revoke-crl"]
    assert pem(mock.pki.ca) in mock.admin("GET", CERTS).json()["ca-crt"]


def test_a_revoked_ca_is_not_an_active_one_any_more(mock: Mock) -> None:
    mock.revoke(REVOKE)
    answer = mock.admin("PATCH", CERTS, {"ca-revoke-crl": mock.crl(mock.pki.ca.serial_number, DISABLE)})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["ca-revoke-crl"])


def test_a_disabled_ca_registers_nobody_and_serves_its_devices(mock: Mock) -> None:
    known, late = mock.register("uuid-1"), mock.device("uuid-2")
    registration = {"client.pem": late.pem}
    mock.revoke(DISABLE)
    refused = mock.gateway(late)("GET", "/config")
    assert (refused.status_code, "is disabled" in refused.json()["msg"]) == (403, True)
    answer = mock.admin("PUT", "/ota/devices/", registration)
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["client.pem"])
    assert mock.gateway(known)("GET", "/config").status_code == 204
    mock.revoke(RENEW)
    assert mock.admin("PUT", "/ota/devices/", registration).status_code == 201


def test_a_device_of_a_disabled_ca_may_still_change_its_key(mock: Mock) -> None:
    known, new = mock.register("uuid-1"), mock.device("uuid-1")
    mock.revoke(DISABLE)
    announced = mock.gateway(known)("PATCH", "/device", {"next_pubkey": new.public_key})
    assert announced.status_code == 200
    assert mock.gateway(new)("GET", "/config").status_code == 204
    assert mock.gateway(known)("GET", "/config").status_code == 403


def test_a_revoked_ca_cuts_its_devices_off_also_on_a_connection_that_is_open(mock: Mock) -> None:
    """The handshake was before the CRL: the app sees the certificate that it brought."""
    known = mock.register("uuid-1")
    assert mock.gateway(known)("GET", "/config").status_code == 204
    mock.revoke(REVOKE)
    refused = mock.gateway(known)("GET", "/config")
    assert refused.status_code == 403
    assert refused.json()["msg"] == "the certificate is not signed by a device CA of this Factory"
    answer = mock.admin("PUT", "/ota/devices/", {"client.pem": mock.device("uuid-2").pem})
    assert (answer.status_code, list(answer.json()["errors"])) == (400, ["client.pem"])
