"""Ceremonies killed with SIGKILL at every step, run again, and done: with the same root."""

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fioctl_rotate.mock import new_factory
from tests.commandline import Cli
from tests.making import FACTORY

KILLED = Path(__file__).with_name("killed.py")


def rounds(template: Path, *arguments: str, fat: bool = False) -> list[dict[str, Any]]:
    """One record a killed run; the last run, which nothing killed, must have succeeded."""
    done = subprocess.run(
        [
            sys.executable,
            KILLED,
            *(["--fat"] if fat else []),
            template.with_name("scratch"),
            template,
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *killed, whole = [json.loads(line) for line in done.stdout.splitlines()]
    assert (whole["step"], whole["code"]) == (None, 0)
    return killed


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A directory with a mocked Factory in `mock`, which each round copies into `scratch` beside it."""
    (tmp_path / "scratch").mkdir()
    directory = tmp_path / "template"
    directory.mkdir()
    new_factory.create(directory / "mock", FACTORY, now=datetime.datetime.now(datetime.UTC))
    return directory


@pytest.fixture
def with_pki(cli: Cli, template: Path) -> Path:
    """The same, whose PKI is in `pki`."""
    ended = cli("keys", "ca", "create", template / "pki", "--mock", template / "mock", "-f", FACTORY)
    assert ended.code == 0
    return template


def factory_certificates(cli: Cli, place: str) -> Any:
    return cli("keys", "ca", "show", "--mock", f"{place}/mock", "-f", FACTORY, "--format", "json").json


@pytest.mark.parametrize("fat", [False, True])
def test_keys_ca_create_killed_at_every_step_finishes_with_the_same_root(
    fat: bool, cli: Cli, template: Path
) -> None:
    records = rounds(
        template,
        *("keys", "ca", "create", "HERE/pki", "--mock", "HERE/mock", "-f", FACTORY),
        fat=fat,
    )

    mode = "0600" if fat else "0400"
    steps = [record["step"] for record in records]
    # Each file is made in three steps (temporary, link, removal): all of these were cut in two.
    assert sum(step.startswith("os.link") for step in steps) >= 6
    # GET, POST, GET of the user, PATCH, GET: before each is sent, and when the mock has done it.
    assert [step for step in steps if step.startswith("answer")] == [
        "answer GET",
        "answer POST",
        "answer GET",
        "answer PATCH",
        "answer GET",
    ]
    expected = {"factory_ca.key", "factory_ca.pem", "local-ca.key", "local-ca.pem", "online-crt", "tls-crt"}
    for record in records:
        at = record["step"]
        assert record["code"] == 0, at
        assert set(record["finished"]) == expected, at
        assert all(content.startswith(f"{mode} ") for content in record["finished"].values()), at
        for name, content in record["killed"].items():
            # Without hard links, a name that was taken a moment before its content came is empty.
            if name in expected and not (fat and content == f"{mode} "):
                assert record["finished"][name] == content, f"{name} was replaced after {at}"
        on_file = factory_certificates(cli, record["place"])
        assert f"{mode} {on_file['root']['pem']}" == record["finished"]["factory_ca.pem"], at
        assert f"{mode} {on_file['tls']['pem']}" == record["finished"]["tls-crt"], at
        bundle = {f"{mode} {ca['pem']}" for ca in on_file["device-cas"]}
        assert bundle == {record["finished"]["online-crt"], record["finished"]["local-ca.pem"]}, at
    if fat:
        assert any(f"{mode} " in record["killed"].values() for record in records), (
            "an empty file was left once"
        )


def test_est_authorize_killed_at_every_step_finishes(cli: Cli, with_pki: Path) -> None:
    records = rounds(
        with_pki,
        *("keys", "est", "authorize", "HERE/pki", "--mock", "HERE/mock", "-f", FACTORY, "-y"),
    )

    assert {"request POST", "answer POST", "request PATCH", "answer PATCH"} <= {r["step"] for r in records}
    root = x509.load_pem_x509_certificate((with_pki / "pki" / "factory_ca.pem").read_bytes())
    for record in records:
        at = record["step"]
        assert record["code"] == 0, at
        assert record["finished"] == record["killed"], f"the directory changed after {at}"
        shown = cli("keys", "est", "show", "--mock", f"{record['place']}/mock", "-f", FACTORY)
        x509.load_pem_x509_certificate(shown.out.encode()).verify_directly_issued_by(root)


def test_add_device_ca_killed_at_every_step_finishes(cli: Cli, template: Path) -> None:
    at = ("--mock", template / "mock", "-f", FACTORY)
    assert cli("keys", "ca", "create", template / "pki", "--no-local-ca", *at).code == 0
    records = rounds(
        template,
        *("keys", "ca", "add-device-ca", "HERE/pki", "--local-ca", "--mock", "HERE/mock", "-f", FACTORY),
    )

    for record in records:
        # Killed once the bundle had landed: the second run finds its own CA there and says so.
        assert record["code"] in (0, 1), record["step"]
        on_file = factory_certificates(cli, record["place"])
        pems = {f"0400 {ca['pem']}" for ca in on_file["device-cas"]}
        assert record["finished"]["local-ca.pem"] in pems, record["step"]
        assert len(pems) == 2, record["step"]


def test_est_keypair_killed_at_every_step_finishes_with_the_same_key(with_pki: Path) -> None:
    records = rounds(with_pki, "est", "keypair", "est.example.com", "HERE/pki", "--format", "json")

    for record in records:
        finished, killed = record["finished"], record["killed"]
        # Killed when all was done, the second run says so: nothing is overwritten.
        assert record["code"] == (1 if "est-tls.pem" in killed else 0), record["step"]
        assert set(finished) == {path.name for path in (with_pki / "pki").iterdir()} | {
            "est-tls.key",
            "est-tls.pem",
        }
        if "est-tls.key" in killed:
            assert finished["est-tls.key"] == killed["est-tls.key"], record["step"]
