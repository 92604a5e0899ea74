"""`keys ca`, `keys est`, `est`, `keys check`: what each shows, writes, keeps and refuses."""

import fcntl
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.commandline import Cli
from tests.making import (
    CN,
    DAY,
    FACTORY,
    LEAF,
    NAME,
    NOW,
    OU,
    P256,
    ROOT,
    SERVER,
    certificate,
    csr,
    pem,
    subject,
)


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def modes(directory: Path) -> dict[str, str]:
    return {path.name: f"{stat.S_IMODE(path.stat().st_mode):04o}" for path in directory.iterdir()}


# --- create ---


def test_create_writes_fioctls_files_with_their_mode(created: Path) -> None:
    names = ("factory_ca.key", "factory_ca.pem", "local-ca.key", "local-ca.pem", "online-crt", "tls-crt")
    assert modes(created) == dict.fromkeys(names, "0400")
    assert stat.S_IMODE(created.stat().st_mode) == 0o700
    for key in ("factory_ca.key", "local-ca.key"):
        assert (created / key).read_text().startswith("-----BEGIN EC PRIVATE KEY-----\n"), (
            "SEC1, as fioctl reads"
        )


@pytest.mark.parametrize(
    ("flags", "cas"),
    [
        ((), {"online-crt", "local-ca.pem", "local-ca.key"}),
        (("--no-online-ca",), {"local-ca.pem", "local-ca.key"}),
        (("--online-ca=false",), {"local-ca.pem", "local-ca.key"}),
        (("--local-ca=false",), {"online-crt"}),
        (("--online-ca=true", "--local-ca=0"), {"online-crt"}),
        (("--online-ca=F", "--no-local-ca"), set()),
    ],
)
def test_create_makes_the_device_cas_that_are_wanted(
    flags: tuple[str, ...], cas: set[str], here: Cli, tmp_path: Path
) -> None:
    result = here("keys", "ca", "create", tmp_path / "pki", *flags, "--format", "json")
    assert result.code == 0, result.err
    assert set(modes(tmp_path / "pki")) == {"factory_ca.key", "factory_ca.pem", "tls-crt"} | cas
    assert len(result.json["device-cas"]) == len([name for name in cas if not name.endswith(".key")])


def test_a_value_that_is_not_a_boolean_is_wrong_usage(here: Cli, tmp_path: Path) -> None:
    result = here("keys", "ca", "create", tmp_path / "pki", "--online-ca=perhaps")
    assert result.code == 2
    assert "--online-ca" in result.err
    assert not (tmp_path / "pki").exists()


def test_create_again_is_there_already_and_elsewhere_refused(
    here: Cli, created: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in created.iterdir()}
    again = here("keys", "ca", "create", created, "--format", "json")
    assert (again.code, again.json["created"]) == (0, False)
    assert {path.name: path.read_bytes() for path in created.iterdir()} == before

    elsewhere = here("keys", "ca", "create", tmp_path / "other")
    assert elsewhere.code == 5
    assert "already has a root" in elsewhere.err
    assert list((tmp_path / "other").iterdir()) == []


def test_a_stale_certificate_is_kept_aside_not_overwritten(here: Cli, pki: Path) -> None:
    """Left by a ceremony for another Factory, say: its key is not the one that the backend has."""
    stale = pem(certificate(name=SERVER, key=P256, issuer=ROOT, extensions=LEAF))
    (pki / "tls-crt").write_bytes(stale)
    (pki / "tls-crt.bak").write_bytes(b"older")
    result = here("keys", "ca", "create", pki)
    assert result.code == 0, result.err
    assert "tls-crt is kept as tls-crt.bak.2" in result.err
    assert (pki / "tls-crt.bak").read_bytes() == b"older"
    assert (pki / "tls-crt.bak.2").read_bytes() == stale
    assert (pki / "tls-crt").read_bytes() != stale


def test_two_ceremonies_at_once_exclude_each_other(here: Cli, pki: Path) -> None:
    fd = os.open(pki, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        result = here("keys", "ca", "create", pki)
    finally:
        os.close(fd)
    assert result.code == 1
    assert "is in use by another command" in result.err


def test_what_others_can_read_is_warned_about(here: Cli, created: Path) -> None:
    created.chmod(0o755)
    (created / "factory_ca.key").chmod(0o644)
    result = here("est", "authorize", created)
    assert result.code == 0
    assert f"warning: {created} is open to others (mode 0755); fix: `chmod 700 {created}`\n" in result.err
    key = created / "factory_ca.key"
    assert f"warning: {key} can be read by others (mode 0644); fix: `chmod 400 {key}`\n" in result.err


# --- show ---


def test_show_shows_what_the_factory_has(here: Cli, created: Path) -> None:
    everything = here("keys", "ca", "show")
    for name in ("factory_ca.pem", "tls-crt", "online-crt", "local-ca.pem"):
        assert (created / name).read_text() in everything.out
    assert here("keys", "ca", "show", "--just-root").out == (created / "factory_ca.pem").read_text()
    assert here("keys", "ca", "show", "--just-tls").out == (created / "tls-crt").read_text()
    bundle = x509.load_pem_x509_certificates(here("keys", "ca", "show", "--just-device-cas").out.encode())
    assert bundle == [load(created / "online-crt"), load(created / "local-ca.pem")]
    pretty = here("keys", "ca", "show", "--just-root", "--pretty").out
    assert "subject      OU=acme,CN=Factory-CA" in pretty
    assert "constraints  CA (critical)" in pretty
    assert "key usage    cRLSign, keyCertSign (critical)" in pretty
    assert here("keys", "ca", "show", "--just-root", "--just-tls").code == 2


def test_show_as_json_has_a_stable_shape(here: Cli, created: Path) -> None:
    shown = here("keys", "ca", "show", "--format", "json").json
    assert list(shown) == ["factory", "server", "root", "tls", "device-cas", "disabled-ca-serials"]
    assert list(shown["root"]) == [
        "subject",
        "issuer",
        "serial",
        "serial-decimal",
        "not-before",
        "not-after",
        "ca",
        "dns-names",
        "sha256",
        "pem",
        "expires-soon",
    ]
    assert shown["tls"]["dns-names"] == ["localhost"]
    assert (shown["root"]["ca"], shown["tls"]["ca"], shown["root"]["expires-soon"]) == (True, False, None)
    assert list(here("keys", "ca", "show", "--just-tls", "--format", "json").json) == [
        "factory",
        "server",
        "tls",
    ]


def test_an_expiry_that_is_near_is_said_plainly(here: Cli, pki: Path) -> None:
    (pki / "factory_ca.pem").write_bytes(pem(certificate(ends=NOW + 30 * DAY)))
    assert here("keys", "ca", "create", pki).code == 0
    assert here("keys", "est", "authorize", pki).code == 0
    shown = here("keys", "ca", "show")
    assert "warning: Factory root, serial" in shown.err
    assert "expires soon, on" in shown.err
    est = here("keys", "est", "show")
    assert "warning: the EST TLS certificate: expires soon, on" in est.err
    assert "expires soon" in here("est", "show", "--format", "json").json["est-tls"]["expires-soon"]
    checked = here("keys", "check", pki)
    assert "warn  factory_ca.pem" in checked.out


# --- est authorize ---


def test_a_dry_run_asks_for_nothing(here: Cli, created: Path) -> None:
    dry = here("est", "authorize", created, "--dryrun")
    assert dry.code == 0
    assert "present EST TLS certificate: none" in dry.out
    assert "would ask for: a new key and CSR" in dry.out
    assert here("est", "show").code == 1
    authorized = here("est", "authorize", created)
    assert authorized.out == here("est", "show").out
    dry = here("keys", "est", "authorize", created, "--dry-run", "--format", "json").json
    assert list(dry) == ["factory", "server", "est-tls", "expected-name"]
    assert dry["est-tls"]["pem"] == authorized.out
    assert dry["expected-name"] == "localhost"


def test_a_replacement_in_a_pipe_needs_yes(here: Cli, created: Path) -> None:
    first = here("est", "authorize", created)
    refused = here("est", "authorize", created)
    assert refused.code == 5
    assert refused.err.endswith("hint: -y answers yes\n")
    assert here("est", "show").out == first.out
    replaced = here("est", "authorize", created, "-y", "--format", "json")
    assert replaced.code == 0
    assert here("est", "show").out == replaced.json["est-tls"]["pem"] != first.out


def test_authorize_refuses_a_foreign_root(here: Cli, created: Path, pki: Path) -> None:
    refused = here("est", "authorize", pki)
    assert refused.code == 5
    assert f"the root in this directory is not the root of {FACTORY}" in refused.err


def test_authorize_before_there_is_a_pki(here: Cli, pki: Path) -> None:
    refused = here("est", "authorize", pki)
    assert refused.code == 5
    assert "hint: `fioctl-rotate keys ca create DIR --factory acme --mock " in refused.err


def test_authorize_in_three_with_a_machine_that_has_no_network(
    cli: Cli, here: Cli, created: Path, tmp_path: Path
) -> None:
    online = tmp_path / "online"
    online.mkdir(mode=0o700)
    (online / "factory_ca.pem").write_bytes((created / "factory_ca.pem").read_bytes())
    asked, signed = tmp_path / "est.csr", tmp_path / "est.pem"

    fetched = here("est", "authorize", online, "--out", asked)
    assert (fetched.code, fetched.out) == (0, f"{asked}\n")
    offline = cli("est", "authorize", created, "--csr", asked, "--out", signed)
    assert offline.code == 0, offline.err
    uploaded = here("est", "authorize", online, "--upload", signed)
    assert uploaded.code == 0, uploaded.err

    assert here("est", "show").out == signed.read_text()
    assert load(signed).public_key() == x509.load_pem_x509_csr(asked.read_bytes()).public_key()
    again = here("est", "authorize", online, "--upload", signed)
    assert again.code == 0
    assert "the Factory already has this certificate" in again.err
    assert here("est", "authorize", online, "--out", asked).code == 1, "nothing is overwritten"


@pytest.mark.parametrize(
    "flags",
    [("--upload", "a", "--csr", "b"), ("--upload", "a", "--out", "b"), ("--dryrun", "--csr", "a")],
)
def test_steps_that_exclude_each_other(flags: tuple[str, ...], here: Cli, created: Path) -> None:
    result = here("est", "authorize", created, *flags)
    assert (result.code, result.out) == (2, "")


# --- est keypair ---


def test_a_keypair_for_an_own_est_server(cli: Cli, created: Path) -> None:
    result = cli("est", "keypair", "est.example.com", created, "--format", "json")
    assert result.code == 0, result.err
    assert result.json == {
        "dns-name": "est.example.com",
        "key": f"{created}/est-tls.key",
        "certificate": f"{created}/est-tls.pem",
    }
    made = load(created / "est-tls.pem")
    key = load_pem_private_key((created / "est-tls.key").read_bytes(), None)
    assert key.public_key() == made.public_key()
    assert made.subject == subject((CN, "est.example.com"), (OU, FACTORY))
    assert modes(created)["est-tls.key"] == modes(created)["est-tls.pem"] == "0400"

    again = cli("est", "keypair", "est.example.com", created)
    assert again.code == 1
    assert "already exists, and is never overwritten" in again.err
    assert load(created / "est-tls.pem") == made


@pytest.mark.parametrize(
    "name", ["*.example.com", "https://a", "a b", "10.0.0.1", "", "a..b", "é.example.com"]
)
def test_a_name_that_devices_would_not_accept(name: str, cli: Cli, pki: Path) -> None:
    result = cli("est", "keypair", name, pki)
    assert result.code == 2
    assert "is not a valid EST server name" in result.err
    assert not (pki / "est-tls.key").exists()


@pytest.mark.parametrize("name", ["../a.pem", "/etc/a.pem", "a.key", "a"])
def test_a_file_name_is_a_file_name(name: str, cli: Cli, here: Cli, pki: Path) -> None:
    assert cli("est", "keypair", "a.example.com", pki, "--filename", name).code == 2
    assert here("keys", "ca", "add-device-ca", pki, "--local-ca", "--local-ca-filename", name).code == 2


# --- add-device-ca ---


def test_added_device_cas_join_the_earlier_ones(here: Cli, created: Path) -> None:
    online = load(created / "online-crt")
    result = here(
        "keys", "ca", "add-device-ca", created, "--online-ca", "--local-ca", "--local-ca-filename", "two.pem"
    )
    assert result.code == 0, result.err
    assert load(created / "online-crt.bak") == online
    bundle = x509.load_pem_x509_certificates(here("keys", "ca", "show", "--just-device-cas").out.encode())
    assert bundle == [
        online,
        load(created / "local-ca.pem"),
        load(created / "two.pem"),
        load(created / "online-crt"),
    ]
    assert modes(created)["two.key"] == modes(created)["two.pem"] == "0400"


def test_add_device_ca_refuses(here: Cli, created: Path, pki: Path) -> None:
    assert here("keys", "ca", "add-device-ca", created).code == 2
    assert here("keys", "ca", "add-device-ca", created, "--online-ca=false").code == 2
    taken = here("keys", "ca", "add-device-ca", created, "--local-ca")
    assert taken.code == 1
    assert "another one needs another name: --local-ca-filename NAME.pem" in taken.err
    foreign = here("keys", "ca", "add-device-ca", pki, "--local-ca")
    assert foreign.code == 5


# --- check ---


def test_keys_check_leaves_a_bundle_alone(here: Cli, created: Path) -> None:
    """The device CAs for an EST server, saved in the PKI directory as the README's example may have it."""
    bundle = created / "client-cas.pem"
    bundle.write_text(here("keys", "ca", "show", "--just-device-cas").out)
    assert bundle.read_text().count("BEGIN CERTIFICATE") == 2
    result = here("keys", "check", created)
    assert (result.code, "client-cas" in result.out) == (0, False), result


def test_check_passes_what_create_made(here: Cli, cli: Cli, created: Path) -> None:
    assert here("est", "authorize", created).code == 0
    result = here("keys", "check", created, "--format", "json")
    assert result.code == 0
    assert list(result.json) == ["directory", "factory", "server", "ok", "checks"]
    assert {check["status"] for check in result.json["checks"]} == {"pass"}
    assert {check["name"] for check in result.json["checks"]} >= {
        *("factory_ca.pem", "root key", "local-ca.pem", "local-ca.key", "online-crt", "tls-crt", "modes"),
        *("Factory root", "gateway TLS", "EST TLS", "device CA 1", "device CA 2"),
    }
    offline = cli("keys", "check", created, "--offline")
    assert offline.code == 0, offline.err
    assert "Factory root" not in offline.out


def test_check_says_what_is_wrong_and_what_is_missing(here: Cli, cli: Cli, created: Path) -> None:
    (created / "local-ca.key").unlink()
    (created / "local-ca.key").write_bytes((created / "factory_ca.key").read_bytes())
    (created / "tls-crt").unlink()
    (created / "extra.pem").write_bytes(pem(certificate(name=subject((CN, "fio-1"), (OU, FACTORY)))))
    result = here("keys", "check", created)
    assert result.code == 5
    assert "fail  local-ca.key" in result.out
    assert "is not the key of local-ca.pem" in result.out
    assert "warn  tls-crt" in result.out
    assert "fail  extra.pem" in result.out
    assert "not made by the Factory's root" in result.out
    assert "warn  EST TLS" in result.out
    assert "can be read by others" in result.out
    assert "checks failed" in result.err


def test_check_without_a_root_on_either_side(here: Cli, cli: Cli, pki: Path, tmp_path: Path) -> None:
    result = here("keys", "check", pki, "--format", "json")
    assert (result.code, result.json["ok"]) == (5, False)
    assert "has no PKI of its own" in result.out
    (tmp_path / "empty").mkdir()
    result = cli("keys", "check", tmp_path / "empty", "--offline")
    assert result.code == 5
    assert "factory_ca.pem: no such file" in result.out


def test_sign_needs_no_factory_and_prints_the_certificate_alone(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "a.csr"
    asked.write_bytes(pem(csr()))
    result = cli("keys", "ca", "sign", asked, "--pki-dir", pki)
    assert (result.code, result.err) == (0, "")
    made = x509.load_pem_x509_certificate(result.out.encode())
    assert made.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value == x509.SubjectAlternativeName([x509.DNSName(NAME)])


def test_sign_warns_where_it_makes_a_device_ca(cli: Cli, pki: Path, tmp_path: Path) -> None:
    asked = tmp_path / "a.csr"
    wanted = x509.BasicConstraints(ca=True, path_length=None)
    asked.write_bytes(pem(csr(wanted, name=subject((CN, "fio-1"), (OU, FACTORY)), san=None)))
    result = cli("keys", "ca", "sign", asked, "--pki-dir", pki)
    assert result.code == 0
    assert result.err.startswith("warning: this is a device CA")


def test_authorize_with_a_csr_from_a_file_signs_and_uploads(here: Cli, created: Path, tmp_path: Path) -> None:
    asked = tmp_path / "est.csr"
    assert here("est", "authorize", created, "--out", asked).code == 0
    authorized = here("est", "authorize", created, "--csr", asked)
    assert authorized.code == 0, authorized.err
    assert here("est", "show").out == authorized.out


def test_a_fetched_csr_is_shown_as_json(here: Cli, created: Path, tmp_path: Path) -> None:
    fetched = here("est", "authorize", created, "--out", tmp_path / "est.csr", "--format", "json").json
    assert list(fetched) == ["factory", "server", "csr"]
    assert fetched["csr"] == str(tmp_path / "est.csr")


def test_check_goes_on_where_one_thing_cannot_be_read(here: Cli, created: Path) -> None:
    (created / "factory_ca.key").chmod(0o600)
    (created / "factory_ca.key").write_text("not a key")
    (created / "odd.pem").write_text("not a certificate")
    result = here("keys", "check", created, "--format", "json")
    assert result.code == 5
    outcomes = {check["name"]: check["status"] for check in result.json["checks"]}
    assert outcomes["root key"] == outcomes["odd.pem"] == "fail"
    assert outcomes["local-ca.pem"] == outcomes["Factory root"] == "pass"
