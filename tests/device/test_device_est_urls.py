"""Where a device posts its CSR, for odd values of ESTSERVER. The real fioconfig ended each one in the same way."""

import pytest

from fioctl_rotate.device.device import Outcome
from fioctl_rotate.device.renew_cert import RotationFailed
from fioctl_rotate.rotation.progress import STEPS
from tests.device.bench import Bench, state

EST = "/.well-known/est"


def rotate(bench: Bench, value: str) -> Outcome:
    """How a device ends that is told to rotate by this ESTSERVER."""

    async def scenario() -> Outcome:
        bench.gateway.push("certs-1", value.replace("PORT", str(bench.gateway.port)))
        return await bench.device().check_in()

    outcome: Outcome = bench.run(scenario)
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
    [
        ("https://localhost:PORT/.well-known/est", f"{EST}/simplereenroll"),
        ("https://localhost:PORT/.well-known/%65st", "/.well-known/%65st/simplereenroll"),
        ("https://localhost:PORT/.well-known%2Fest", "/.well-known%2Fest/simplereenroll"),
        ("HTTPS://localhost:PORT/.well-known/est", f"{EST}/simplereenroll"),
        ("https://LOCALHOST:PORT/.well-known/est", f"{EST}/simplereenroll"),
        ("https://user:pw@localhost:PORT/.well-known/est", f"{EST}/simplereenroll"),
    ],
)
def test_odd_values_by_which_a_device_rotates(bench: Bench, value: str, path: str) -> None:
    assert rotate(bench, value) is Outcome.ROTATED
    assert asked(bench) == [path]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("https://localhost:PORT/.well-known/est/", f"{EST}//simplereenroll"),
        ("https://localhost:PORT/x/../.well-known/est", f"/x/..{EST}/simplereenroll"),
        ("https://localhost:PORT//.well-known/est", f"/{EST}/simplereenroll"),
        ("https://localhost:PORT/./.well-known/est", f"/.{EST}/simplereenroll"),
        ("https://localhost:PORT/.well-known/est?x", f"{EST}?x/simplereenroll"),
        ("https://localhost:PORT/.well-known/est#f", EST),
        ("https://localhost:PORT", "/simplereenroll"),
        ("https://localhost:PORT/.well-known/ést", "/.well-known/%C3%A9st/simplereenroll"),
        ("https://localhost:PORT/.well-known/est;a", f"{EST};a/simplereenroll"),
        ("https://localhost:PORT/.well-known/est|x", f"{EST}%7Cx/simplereenroll"),
        ("http://localhost:PORT/.well-known/est", None),
        ("https://127.0.0.1:PORT/.well-known/est", None),
        ("localhost:PORT/.well-known/est", None),
        ("https://localhost:PORT/.well-known/%zz", None),
        ("https://localhost:1/.well-known/est", None),
        ("https://localhost:99999/.well-known/est", None),
        ("https:///.well-known/est", None),
    ],
)
def test_odd_values_that_wedge_a_device(bench: Bench, value: str, path: str | None) -> None:
    with pytest.raises(RotationFailed, match=STEPS[0]):
        rotate(bench, value)
    assert asked(bench) == ([path] if path else [])
    assert state(bench.device())["StepIdx"] == 0
