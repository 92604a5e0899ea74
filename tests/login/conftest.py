"""The mocked Factory over HTTP, behind its API tokens or behind OAuth."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.login.credentials import (
    Serve,
    TokenEndpoint,
)
from tests.scripted import Server, running_mock


@pytest.fixture
def tokens(acme: Path) -> dict[str, str]:
    """The mock's tokens by role."""
    return {role: (acme / "tokens" / f"acme.{role}").read_text() for role in ("admin", "readonly")}


@pytest.fixture
def api(acme: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The mock with its tokens checked, over HTTP; nothing in the environment names it."""
    with running_mock(acme, authenticate=True) as answer:
        server = serve(answer)
        for name in ("FIOCTL_FACTORY", "FIOCTL_TOKEN", "FIOCTL_ROTATE_SERVER", "FIOCTL_ROTATE_MOCK"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def oauth(
    acme: Path, serve: Serve, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[TokenEndpoint]:
    """The mock behind OAuth at `FIOCTL_ROTATE_SERVER`: its token endpoint gives the mock's admin token."""
    endpoint = TokenEndpoint(tokens["admin"], refresh_token="canary-new-refresh")
    with running_mock(acme, authenticate=True) as answer:
        serve(endpoint.before(answer))
        for name in ("FIOCTL_TOKEN", "FIOCTL_ROTATE_MOCK"):
            monkeypatch.delenv(name, raising=False)
        yield endpoint
