"""`keys ca revoke-device-ca`, `disable-device-ca`, `update`, `rotate-tls`: device CAs and the gateway replaced."""

import datetime
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from fioctl_rotate.pki.keys import private_key_pem
from tests.commandline import Cli
from tests.making import CN, FACTORY, NOW, OU, P256, ROOT, ROOT_KEY, certificate, pem, subject, usage
from tests.test_readme import assert_shape, shown_shape

REASON = x509.ReasonFlags


@pytest.fixture
def pki(acme: Path) -> Path:
    """The PKI directory of the Factory `acme`, which has two devices of the local CA."""
    return acme / "pki"


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def trusted(cli: Cli) -> tuple[dict[str, str], list[str]]:
    """The subjects of the Factory's device CAs by serial (base 10), and the disabled serials."""
    shown = cli("keys", "ca", "show", "--format", "json").json
    return {ca["serial-decimal"]: ca["subject"] for ca in shown["device-cas"]}, shown["disabled-ca-serials"]


def entries(crl: x509.CertificateRevocationList) -> dict[int, REASON]:
    return {
        entry.serial_number: entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        for entry in crl
    }


# --- The CRL ---


@pytest.mark.parametrize(
    ("command", "reason"),
    [("revoke-device-ca", REASON.privilege_withdrawn), ("disable-device-ca", REASON.certificate_hold)],
)
def test_a_dry_run_prints_the_crl_alone_and_uploads_nothing(
    command: str, reason: REASON, cli: Cli, pki: Path, tmp_path: Path
) -> None:
    before, serial = trusted(cli), load(pki / "local-ca.pem").serial_number
    result = cli("keys", "ca", command, pki, "--ca-file", "local-ca.pem", "--dry-run")
    assert result.code == 0
    assert result.out.startswith("-----BEGIN X509 CRL-----\n")
    assert result.out.endswith("-----END X509 CRL-----\n")
    assert "nothing was uploaded" in result.err
    assert ("device-1, device-2" in result.err) == (command == "revoke-device-ca")
    crl = x509.load_pem_x509_crl(result.out.encode())
    root = load(pki / "factory_ca.pem")
    assert crl.issuer == root.subject
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == datetime.timedelta(minutes=15)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 1
    assert entries(crl) == {serial: reason}
    (tmp_path / "crl.pem").write_text(result.out)
    verify: list[str | Path] = [
        "openssl",
        "crl",
        "-noout",
        "-CAfile",
        pki / "factory_ca.pem",
        "-in",
        tmp_path / "crl.pem",
    ]
    assert "verify OK" in subprocess.run(verify, check=True, capture_output=True, text=True).stderr
    assert trusted(cli) == before


def test_a_crl_for_people(cli: Cli, pki: Path) -> None:
    serial = load(pki / "online-crt").serial_number
    command = ("keys", "ca", "disable-device-ca", pki, "--ca-serial", serial)
    shown = cli(*command, "--dry-run", "--pretty")
    assert f"serial       {serial} (certificateHold)" in shown.out
    assert f"issuer       OU={FACTORY},CN=Factory-CA" in shown.out
    refused = cli(*command, "--pretty")
    assert (refused.code, refused.err) == (2, "error: --pretty needs --dry-run\n")


def test_a_serial_longer_than_the_rfc_allows(cli: Cli, pki: Path) -> None:
    """fioctl makes serials of up to 160 random bits."""
    root = load(pki / "factory_ca.pem")
    made = subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-keyout", "/dev/null", "-subj", f"/CN=fio-1/OU={FACTORY}", "-set_serial", f"{(1 << 160) - 5}"),
            *("-CA", pki / "factory_ca.pem", "-CAkey", pki / "factory_ca.key", "-days", "9"),
            *("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert x509.load_pem_x509_certificate(made.encode()).issuer == root.subject
    bundle = cli("keys", "ca", "show", "--just-device-cas").out
    (pki.parent / "all.pem").write_text(bundle + made)
    added = cli("keys", "ca", "update", pki.parent / "all.pem")
    assert added.code == 0, added.err
    revoked = cli("keys", "ca", "revoke-device-ca", pki, "--ca-serial", (1 << 160) - 5, "--cut-off", 2)
    assert revoked.code == 0, revoked.err
    assert str((1 << 160) - 5) not in trusted(cli)[0]


def test_a_root_that_may_not_sign_a_crl(cli: Cli, pki: Path) -> None:
    from fioctl_rotate.errors import Refused
    from fioctl_rotate.pki.directory import Root
    from fioctl_rotate.pki.revocation import REVOKE, make_crl

    weak = certificate(extensions=[x509.BasicConstraints(ca=True, path_length=None), usage("key_cert_sign")])
    with pytest.raises(Refused, match="cRLSign"):
        make_crl(Root(weak, P256, FACTORY), [5], REVOKE, now=NOW)


# --- Disabled and revoked ---


def test_a_disabled_ca_is_still_trusted(cli: Cli, pki: Path) -> None:
    serial = str(load(pki / "local-ca.pem").serial_number)
    result = cli("keys", "ca", "disable-device-ca", pki, "--ca-file", "local-ca")  # as fioctl's help has it
    assert (result.code, result.out.split()[0]) == (0, "disabled:")
    assert serial in result.out
    cas, disabled = trusted(cli)
    assert serial in cas
    assert disabled == [serial]
    assert "is disabled: it registers no new devices" in cli("keys", "check", pki).out


def test_revoking_is_refused_until_the_right_number_is_given(cli: Cli, pki: Path) -> None:
    serial = str(load(pki / "local-ca.pem").serial_number)
    revoke = ("keys", "ca", "revoke-device-ca", pki, "--ca-file", "local-ca.pem")
    for flags, expected in (((), 0), (("--cut-off", 1), 1), (("--cut-off", 3), 3)):
        refused = cli(*revoke, *flags)
        assert (refused.code, refused.out) == (5, "")
        assert f"2 devices may be cut off, expected {expected}: device-1, device-2" in refused.err
        assert "hint: --cut-off 2 accepts this" in refused.err
    assert serial in trusted(cli)[0]

    done = cli(*revoke, "--cut-off", 2, "--format", "json")

    assert done.code == 0, done.err
    assert [device["issuer"] for device in done.json["cut-off"]] == ["unknown"] * 2
    assert [ca["serial-decimal"] for ca in done.json["revoked"]] == [serial]
    assert serial not in trusted(cli)[0]
    again = cli(*revoke, "--cut-off", 2)
    assert again.code == 5
    assert f"no active device CA with the serial {serial}" in again.err


def test_json_has_the_shape_that_the_readme_shows(cli: Cli, pki: Path) -> None:
    flags = ("--ca-file", "local-ca.pem", "--dry-run", "--format", "json")
    shape = shown_shape("keys ca disable-device-ca")
    disabled = cli("keys", "ca", "disable-device-ca", pki, *flags).json
    assert list(disabled) == list(shape)
    revoked = cli("keys", "ca", "revoke-device-ca", pki, *flags).json
    assert list(revoked) == [key.replace("disabled", "revoked") for key in shape]
    assert_shape(revoked["cut-off"], shape["cut-off"])


def test_several_cas_by_file_and_serial_are_taken_once_each(cli: Cli, pki: Path) -> None:
    online, local = (load(pki / name).serial_number for name in ("online-crt", "local-ca.pem"))
    files = ("--ca-file", pki / "local-ca.pem", "--ca-file", "online-crt")
    result = cli("keys", "ca", "disable-device-ca", pki, *files, "--ca-serial", online, "--dry-run")
    assert entries(x509.load_pem_x509_crl(result.out.encode())) == dict.fromkeys(
        (online, local), REASON.certificate_hold
    )


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ((), 2, "at least one of --ca-file and --ca-serial is needed"),
        (("--ca-serial", "0x12"), 2, "--ca-serial: expected a serial in base 10, got '0x12'"),
        (("--ca-serial", "9" * 5000), 2, "--ca-serial: expected a serial in base 10"),
        (("--ca-serial", "²"), 2, "--ca-serial: expected a serial in base 10"),
        (("--ca-serial", "4711"), 5, "there is no active device CA with the serial 4711"),
        (("--ca-file", "nowhere"), 1, "nowhere.pem: no such file"),
        (("--ca-file", "factory_ca.pem"), 5, "there is no active device CA with the serial"),
        (("--ca-file", "local-ca.key"), 1, "expected a CERTIFICATE block, got EC PRIVATE KEY"),
        (("--ca-file", "/dev/zero"), 1, "/dev/zero cannot be read: larger than"),
    ],
)
def test_what_is_not_a_device_ca_is_not_revoked(
    flags: tuple[str, ...], code: int, message: str, cli: Cli, pki: Path
) -> None:
    for command in ("revoke-device-ca", "disable-device-ca"):
        result = cli("keys", "ca", command, pki, *flags)
        assert result.code == code
        assert message in result.err
        assert len(trusted(cli)[0]) == 2
        assert trusted(cli)[1] == []


def test_the_root_of_another_factory_revokes_nothing(cli: Cli, pki: Path, tmp_path: Path) -> None:
    (tmp_path / "factory_ca.pem").write_bytes(pem(certificate()))
    (tmp_path / "factory_ca.key").write_bytes(private_key_pem(ROOT_KEY))
    result = cli("keys", "ca", "revoke-device-ca", tmp_path, "--ca-serial", "4711", "--cut-off", 2)
    assert result.code == 5
    assert "the root in this directory is not the root of acme" in result.err


# --- Who would be cut off ---


def log_line(cli: Cli, device: str, ca: x509.Certificate, *, key: str | None = None) -> str:
    """What `est serve` logs when it issues a certificate for the device's present key, or another one."""
    shown = cli("devices", "show", device, "--format", "json").json
    public = load_pem_public_key((key or shown["public-key"]).encode())
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ca_id = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    record = {
        "time": "2026-11-25T12:00:00Z",
        "operation": "simplereenroll",
        "peer": "192.0.2.1:5",
        "device": shown["uuid"],
        "outcome": "issued",
        "not-after": "2027-11-25T12:00:00Z",
        "key-sha256": hashlib.sha256(der).hexdigest(),
        "issuer-key-id": ca_id.hex(),
    }
    return json.dumps(record)


def test_the_est_log_says_whose_certificate_is_of_another_ca(cli: Cli, pki: Path, tmp_path: Path) -> None:
    local, online = load(pki / "local-ca.pem"), load(pki / "online-crt")
    log = tmp_path / "est.log"
    revoke = ("keys", "ca", "revoke-device-ca", pki, "--ca-file", "local-ca.pem", "--est-log", log)

    def cut_off(*lines: str) -> list[list[str]]:
        log.write_text("EST server at https://…\n" + "\n".join(lines) + '\n{"outcome": "issued", broken\n')
        result = cli(*revoke, "--dry-run", "--format", "json")
        assert result.code == 0, result.err
        return [[device["name"], device["issuer"]] for device in result.json["cut-off"]]

    first, second = (log_line(cli, name, online) for name in ("device-1", "device-2"))
    assert cut_off(first, second) == []
    assert cut_off(f"Nov 25 12:00:00 host est[1]: {first}") == [["device-2", "unknown"]]
    assert cut_off(first, log_line(cli, "device-2", local)) == [["device-2", "removed"]]
    old_key = pem_of(P256)
    assert cut_off(first, log_line(cli, "device-2", online, key=old_key)) == [["device-2", "unknown"]]

    refused = cli(*revoke)
    assert refused.code == 5
    assert "1 device may be cut off, expected 0: device-2" in refused.err
    assert cli(*revoke, "--cut-off", 1).code == 0


def pem_of(key: Any) -> str:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return str(public.decode())


def test_a_log_without_certificates_is_an_error(cli: Cli, pki: Path, tmp_path: Path) -> None:
    (tmp_path / "est.log").write_text('{"outcome": "sent"}\n')
    flags = ("--ca-file", "local-ca.pem", "--est-log", tmp_path / "est.log", "--cut-off", 2)
    result = cli("keys", "ca", "revoke-device-ca", pki, *flags)
    assert result.code == 1
    assert (
        "est.log has no issued certificate: expected the log of `est serve --log-format json`" in result.err
    )


# --- update ---


def test_update_brings_a_revoked_ca_back(cli: Cli, pki: Path, tmp_path: Path) -> None:
    before = trusted(cli)[0]
    cli("keys", "ca", "revoke-device-ca", pki, "--ca-file", "local-ca.pem", "--cut-off", 2)
    bundle = tmp_path / "all.pem"
    bundle.write_bytes(b"our CAs\n" + (pki / "online-crt").read_bytes() + (pki / "local-ca.pem").read_bytes())
    result = cli("keys", "ca", "update", bundle)
    assert result.code == 0, result.err
    assert result.out.startswith("added: ")
    assert trusted(cli)[0] == before
    assert cli("keys", "ca", "update", bundle).out == "nothing changed\n"


FOREIGN: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "of another root": (
        lambda: pem(certificate(name=subject((CN, "fio-1"), (OU, FACTORY)))),
        5,
        "signature: not made by the Factory's root",
    ),
    "a root": (lambda: pem(certificate(issuer=ROOT)), 5, "certificate 1 of"),
    "nothing": (lambda: b"", 1, "all.pem has no certificate"),
    "no PEM": (lambda: b"<html>", 1, "all.pem is not PEM"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_update_takes_only_cas_of_the_factorys_root(case: str, cli: Cli, acme: Path, tmp_path: Path) -> None:
    make, code, message = FOREIGN[case]
    before = trusted(cli)
    (tmp_path / "all.pem").write_bytes(make())
    result = cli("keys", "ca", "update", tmp_path / "all.pem", "--cut-off", 2)
    assert result.code == code
    assert message in result.err
    assert trusted(cli) == before


def test_update_counts_the_devices_of_a_ca_that_is_left_out(cli: Cli, pki: Path) -> None:
    result = cli("keys", "ca", "update", pki / "online-crt")
    assert result.code == 5
    assert "2 devices may be cut off, expected 0: device-1, device-2" in result.err


# --- rotate-tls ---


def test_the_gateways_certificate_gets_a_new_key_and_keeps_its_names(cli: Cli, pki: Path) -> None:
    old = load(pki / "tls-crt")
    result = cli("keys", "ca", "rotate-tls", pki, "--format", "json")
    assert result.code == 0, result.err
    new = load(pki / "tls-crt")
    assert new.public_key() != old.public_key()
    assert result.json["tls"]["sha256"] == new.fingerprint(hashes.SHA256()).hex()
    assert result.json["tls"]["dns-names"] == ["localhost"]
    assert load(pki / "tls-crt.bak") == old
    shown = cli("keys", "ca", "show", "--just-tls").out
    assert x509.load_pem_x509_certificate(shown.encode()) == new


# --- Two CAs of one subject ---


def test_two_cas_of_one_subject_are_warned_about(cli: Cli, pki: Path) -> None:
    added = cli("keys", "ca", "add-device-ca", pki, "--local-ca", "--local-ca-filename", "b.pem")
    assert added.code == 0
    checked = cli("keys", "check", pki)
    assert checked.code == 0
    for text in (added.err, checked.out):
        assert "2 device CAs have the subject" in text
        for name in ("local-ca.pem", "b.pem"):
            assert f"{load(pki / name).serial_number:x}" in text
    alone = cli("keys", "ca", "add-device-ca", pki, "--online-ca")
    assert "2 device CAs have the subject OU=acme,CN=acme-online-ca" in alone.err
