"""The README's runbook for a compromised device CA, line by line, over real TLS: who is refused at the end."""

import shlex
import tomllib
from pathlib import Path

import httpx
import pytest

from fioctl_rotate.pki import certificates
from fioctl_rotate.tls import client_context
from tests.commandline import Cli, Result
from tests.making import Pki, write_pair
from tests.processes import FREE, Process, est_port
from tests.typed import blocks


def runbook() -> list[str]:
    """The commands of the section, comments left out."""
    lines = blocks()["When a device CA is compromised 1"].splitlines()
    return [line.partition("  #")[0].partition("fioctl-rotate ")[2] for line in lines]


@pytest.fixture
def factory(cli: Cli, mock_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The group `field` with two devices; beside it `intruder` and `stray`, which nobody rotates."""
    assert cli("mock", "init", mock_dir, "-f", "acme", "-g", "field", "--devices", 2, *FREE).code == 0
    assert cli("mock", "add-devices", mock_dir, "--devices", 2).code == 0
    monkeypatch.setenv("FIOCTL_FACTORY", "acme")
    monkeypatch.setenv("FIOCTL_ROTATE_MOCK", str(mock_dir))
    for name, new in (("device-3", "intruder"), ("device-4", "stray")):
        assert cli("devices", "rename", name, new).code == 0
    return mock_dir


def check_in(factory: Path, gateway: str, cert: Path, key: Path) -> int | None:
    """The gateway's status for the holder of a certificate; None where there is no connection."""
    context = client_context((factory / "pki" / "factory_ca.pem").read_text(), cert=cert, key=key)
    try:
        return httpx.get(f"{gateway}/config", verify=context, trust_env=False).status_code
    except httpx.TransportError:
        return None


def present_certificate(device: Path) -> tuple[Path, Path]:
    files = tomllib.loads((device / "sota.toml").read_text())["import"]
    return device / files["tls_clientcert_path"], device / files["tls_pkey_path"]


def forged(factory: Path, directory: Path) -> tuple[Path, Path]:
    """What whoever has the local CA's key can make: a certificate for a device that nobody knows."""
    device = Pki.read(factory / "pki").device(certificates.name("uuid-forged", "acme"))
    return write_pair(directory, "forged", device)


def test_the_runbook(cli: Cli, factory: Path, tmp_path: Path) -> None:
    uuids = {d["name"]: d["uuid"] for d in cli("devices", "list", "--format", "json").json["devices"]}

    with Process("mock", "serve", factory, "--format", "json") as server:
        served = server.document()
        port, gateway = est_port(served), served["gateway"]

        def seen() -> dict[str, int | None]:
            return {
                name: check_in(factory, gateway, *present_certificate(factory / "devices" / uuid))
                for name, uuid in uuids.items()
            }

        def step(line: str, *flags: object) -> Result:
            words = shlex.split(line.replace("~/acme-pki", str(factory / "pki")))
            result = cli(*words, *flags)
            assert result.code == 0, (line, result)
            return result

        disable, delete, add, rotate, look, revoke = runbook()
        assert set(seen().values()) == {204}

        step(disable)
        new = forged(factory, tmp_path)
        assert check_in(factory, gateway, *new) == 403, "a disabled CA registers no new devices"
        body = {"client.pem": new[0].read_text(), "name": "forged"}
        token = (factory / "tokens" / "acme.admin").read_text()
        answer = httpx.put(
            f"{served['server']}/ota/devices/", json=body, headers={"OSF-TOKEN": token}, trust_env=False
        )
        assert answer.status_code == 400
        assert "disabled" in answer.text
        assert set(seen().values()) == {204}, "a disabled CA's devices go on"

        step(delete)
        step(add)
        with Process("mock", "devices", factory, "-g", "field", "--interval", "0.2"):
            step(rotate, "-p", port, "-y", "--soak", 0, "--interval", "0.2", "--timeout", 300)
            assert "cut off: 3: device-1, device-2, stray" in step(look).err

        before = seen()
        assert before.pop("intruder") in (None, 403)
        assert before == {"device-1": 200, "device-2": 200, "stray": 204}
        step(revoke)

        after = seen()

    assert after["device-1"] == after["device-2"] == 200
    assert after["stray"] is None, "the device of the old CA is refused"
    assert after["intruder"] in (None, 403)
