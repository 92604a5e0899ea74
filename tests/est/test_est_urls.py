"""The check foresees how a device ends, for odd values of ESTSERVER."""

import asyncio
from pathlib import Path

import pytest

from fioctl_rotate.checks import Check, Status
from fioctl_rotate.est.client import address_of
from fioctl_rotate.est.probe import probe
from fioctl_rotate.est.server import EstApp
from fioctl_rotate.est.trial import DevicePair, try_reenrollment
from fioctl_rotate.pki.certificates import pem
from fioctl_rotate.rotation.entry import reenroll_url
from fioctl_rotate.serving import listen, running
from fioctl_rotate.tls import server_context
from tests.est_servers import ROTATING, WEDGING
from tests.making import NOW, Pki, write_pair

VALUES = [(value, True) for value, _ in ROTATING] + [(value, False) for value, _ in WEDGING]


@pytest.mark.parametrize(("value", "rotates"), VALUES)
def test_the_checks_say_how_a_device_ends(tmp_path: Path, value: str, rotates: bool) -> None:
    pki = Pki.make()
    device = pki.device()
    identity = DevicePair(device[0], *write_pair(tmp_path, "device", device))
    context = server_context(*write_pair(tmp_path, "server", pki.server()), pem(pki.ca), required=False)
    app = EstApp(authority=pki.authority, clock=lambda: NOW)

    async def check() -> tuple[list[Check], list[Check]]:
        async with running(app, listen("127.0.0.1", 0), context) as port:
            url = value.replace("PORT", str(port))
            trial = await try_reenrollment(url, [pki.root], identity, [pki.ca])
            return await probe(url, [pki.root], now=NOW), list(trial.checks)

    for checks in asyncio.run(check()):
        failed = [check.name for check in checks if check.status is Status.FAIL]
        assert (not failed) is rotates, checks


@pytest.mark.parametrize(("value", "path"), [*ROTATING, *WEDGING])
def test_the_target_is_what_go_sends(value: str, path: str | None) -> None:
    if path is not None:
        assert address_of(reenroll_url(value.replace("PORT", "8443"))).path.decode() == path
