"""Where a device posts its CSR, for odd values of ESTSERVER. The real fioconfig ended each one in the same way."""

import pytest

from fioctl_rotate.device.device import StartOutcome
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.rotation.progress import STEPS
from tests.device.bench import Bench, state
from tests.est_servers import ROTATING, WEDGING

REENROLL = "/.well-known/est/simplereenroll"


def rotate(bench: Bench, value: str) -> StartOutcome:
    """How a device ends that rotates by this ESTSERVER."""

    async def scenario() -> StartOutcome:
        bench.gateway.push("certs-1", value.replace("PORT", str(bench.gateway.port)))
        return await bench.device().check_in()

    outcome: StartOutcome = bench.run(scenario)
    return outcome


def asked(bench: Bench) -> list[str]:
    """The targets of the device's POSTs as they were in the request line, events left out."""
    scopes = [request.scope for request in bench.gateway.requests if request.method == "POST"]
    return [
        (scope["raw_path"] + b"?" * bool(scope["query_string"]) + scope["query_string"]).decode()
        for scope in scopes
        if scope["path"] != "/events"
    ]


@pytest.mark.parametrize(
    ("value", "path"),
    ROTATING,
)
def test_odd_values_by_which_a_device_rotates(bench: Bench, value: str, path: str) -> None:
    assert rotate(bench, value) is StartOutcome.ROTATED
    assert asked(bench) == [path]


@pytest.mark.parametrize(
    ("value", "path"),
    WEDGING,
)
def test_odd_values_that_wedge_a_device(bench: Bench, value: str, path: str | None) -> None:
    with pytest.raises(RotationFailed, match=STEPS[0]):
        rotate(bench, value)
    assert asked(bench) == ([path] if path else [])
    assert state(bench.device())["StepIdx"] == 0


@pytest.mark.parametrize(
    ("status", "method", "rotates"),
    [(301, "GET", False), (302, "GET", False), (303, "GET", False), (307, "POST", True), (308, "POST", True)],
)
def test_a_redirect_is_followed(bench: Bench, status: int, method: str, rotates: bool) -> None:
    gateway = bench.gateway

    async def scenario() -> StartOutcome:
        gateway.redirects = {"/elsewhere/simplereenroll": (status, REENROLL)}
        gateway.push("certs-1", f"{gateway.url}/elsewhere")
        return await bench.device().check_in()

    if rotates:
        assert bench.run(scenario) is StartOutcome.ROTATED
    else:
        with pytest.raises(RotationFailed, match="405"):
            bench.run(scenario)
    last = [request for request in gateway.requests if request.url.path == REENROLL]
    assert [request.method for request in last] == [method]


@pytest.mark.parametrize(
    ("location", "message", "times"),
    [("/round/simplereenroll", "stopped after 10 redirects", 11), ("https://[x/", "not a URL", 1)],
)
def test_a_redirect_that_leads_nowhere(bench: Bench, location: str, message: str, times: int) -> None:
    gateway = bench.gateway

    async def scenario() -> StartOutcome:
        gateway.redirects = {"/round/simplereenroll": (307, location)}
        gateway.push("certs-1", f"{gateway.url}/round")
        return await bench.device().check_in()

    with pytest.raises(RotationFailed, match=message):
        bench.run(scenario)
    assert len([request for request in gateway.requests if request.url.path.startswith("/round")]) == times
