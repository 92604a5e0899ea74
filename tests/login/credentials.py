"""A token endpoint, settings and files with credentials, for the tests of login."""

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import tomli_w
import yaml

from fioctl_rotate.settings import default_config_file
from tests.commandline import Result
from tests.scripted import Answer, Asked, Reply, Server

Serve = Callable[..., Server]

CLIENT = {"client_id": "canary-id", "client_secret": "canary-secret"}
LONG_AGO = "2020-01-01T00:00:00Z"
EXPIRED = {
    "access_token": "canary-old",
    "refresh_token": "canary-refresh",
    "expires_in": 60,
    "created": LONG_AGO,
}


class TokenEndpoint:
    """A token endpoint before the API: it gives `access`, and remembers what it was asked."""

    def __init__(self, access: str, **more: Any) -> None:
        self.answer: Any = {"access_token": access, "token_type": "bearer", "expires_in": 3600, **more}
        self.status = 200
        self.forms: list[dict[str, str]] = []

    def before(self, answers: Answer) -> Answer:
        def answer(asked: Asked) -> Reply:
            if asked.path != "/oauth/token/":
                return answers(asked)
            assert asked.method == "POST"
            assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
            assert "osf-token" not in asked.headers
            self.forms.append({name: value[0] for name, value in parse_qs(asked.body.decode()).items()})
            if isinstance(self.answer, Exception):
                raise self.answer
            return Reply(self.status, self.answer)

        return answer


def kept(path: Path | None = None) -> dict[str, Any]:
    return tomllib.loads((path or default_config_file()).read_text())


def no_secret(*results: Result, secrets: tuple[str, ...] = ()) -> None:
    for result in results:
        for secret in ("canary", *secrets):
            assert secret not in result.out + result.err


def fioctl_yaml(path: Path, server: Server | str, **document: Any) -> Path:
    url = server if isinstance(server, str) else server.url
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"server": {"url": url, "insecure_skip_verify": False}, **document}))
    return path


def server_url(monkeypatch: pytest.MonkeyPatch) -> str:
    url = os.environ["FIOCTL_ROTATE_SERVER"]
    monkeypatch.delenv("FIOCTL_ROTATE_SERVER")
    monkeypatch.delenv("FIOCTL_FACTORY")
    return url


def settings_with(path: Path, server: str, **oauth: Any) -> Path:
    credentials = {**CLIENT, "url": f"{server}/oauth", **oauth}
    profile = {"factory": "acme", "server": server, "oauth": credentials}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps({"factory": "untouched", "token": "t", "profiles": {"work": profile}}))
    return path
