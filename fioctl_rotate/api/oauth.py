"""OAuth client credentials as fioctl uses them: when an access token has expired, and how to get a new one.

The credentials are a mapping with fioctl's names: `client_id`, `client_secret`, `url`, and of the last answer
`access_token`, `refresh_token`, `token_type`, `expires_in` (seconds), `created` (RFC 3339). Source: fioctl's OAuth
client; RFC 6749 §4.4, §5.2 and §6.
"""

import datetime
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from fioctl_rotate.api.failures import UNREADABLE, ApiError, Unreachable
from fioctl_rotate.api.peer import Answer, Peer
from fioctl_rotate.errors import Error, Refused, UsageError
from fioctl_rotate.settings import is_loopback, split_url

DEFAULT_URL = "https://app.foundries.io/oauth"
LOGIN_AGAIN = "log in again: `fioctl login`, then `fioctl-rotate login --from-fioctl`; or use an API token"

Credentials = Mapping[str, Any]


class _Answer(msgspec.Struct):
    access_token: str
    token_type: str = ""
    refresh_token: str | None = None
    expires_in: float = 0


class _Failure(msgspec.Struct):
    error: str = ""
    error_description: str = ""


def is_usable(credentials: Credentials, now: datetime.datetime) -> bool:
    """Whether there is an access token that has not expired at `now` (aware).

    One without `created` or `expires_in` never expires (fioctl: IsExpired). Raises UsageError for a `created` that
    is not a time.
    """
    if not credentials.get("access_token"):
        return False
    created, seconds = credentials.get("created"), credentials.get("expires_in")
    if not created or not seconds:
        return True
    try:
        since = datetime.datetime.fromisoformat(str(created))
        if since.tzinfo is None:
            since = since.replace(tzinfo=datetime.UTC)
        return now - since <= datetime.timedelta(seconds=float(seconds))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"the OAuth credentials were created at `{created}` for `{seconds}` seconds, which is not a time",
            hint=LOGIN_AGAIN,
        ) from error


async def renew(peer: Peer, credentials: Credentials, now: datetime.datetime) -> dict[str, Any]:
    """The credentials with a new access token: a first one, or one for the refresh token after it has expired.

    `peer` is the server at `token_url`. Raises Error if it gives no token.
    """
    missing = [name for name in ("client_id", "client_secret") if not credentials.get(name)]
    if missing:
        raise Error(f"the OAuth credentials have no {missing[0]}", hint=LOGIN_AGAIN)
    form = {name: str(credentials[name]) for name in ("client_id", "client_secret")}
    if not credentials.get("access_token"):
        form["grant_type"] = "client_credentials"
    elif credentials.get("refresh_token"):
        form |= {"grant_type": "refresh_token", "refresh_token": str(credentials["refresh_token"])}
    else:
        raise Error("the OAuth access token has expired, and there is no refresh token", hint=LOGIN_AGAIN)
    answer = await _ask(peer, form)
    return {
        **credentials,
        "access_token": answer.access_token,
        "token_type": answer.token_type,
        # Without a new refresh token the old one stays valid (RFC 6749 §6).
        "refresh_token": answer.refresh_token or credentials.get("refresh_token", ""),
        "expires_in": answer.expires_in,
        "created": now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def token_url(credentials: Credentials) -> str:
    """The URL that gives access tokens. Raises UsageError if it is not valid, Refused if it is plain http."""
    url = str(credentials.get("url") or DEFAULT_URL).rstrip("/") + "/token/"
    parts = split_url(url)
    if parts is None or "@" in parts.netloc:
        raise UsageError("the OAuth credentials' url is not of the form https://HOST/PATH", hint=LOGIN_AGAIN)
    host = str(parts.hostname)
    if parts.scheme == "http" and not is_loopback(host):
        raise Refused(f"the OAuth client secret would travel unencrypted to {host}")
    return url


async def _ask(peer: Peer, form: Mapping[str, str]) -> _Answer:
    peer.keep_secret(*(form[name] for name in ("client_secret", "refresh_token") if form.get(name)))
    failed = f"no OAuth access token: {peer.name}"
    try:
        response = await peer.send(
            "POST", "", content=urlencode(form).encode(), content_type="application/x-www-form-urlencoded"
        )
    except (Unreachable, ApiError) as error:
        raise Error(f"no OAuth access token: {error.message}", hint=error.hint) from error
    if response.status != 200:
        raise Error(f"{failed} answered {response.status}{_reason(peer, response)}", hint=LOGIN_AGAIN)
    try:
        return msgspec.json.decode(response.body, type=_Answer)
    except UNREADABLE as error:
        # The answer may hold a token, so it is not quoted.
        raise Error(f"{failed} answered without a valid access token") from error


def _reason(peer: Peer, response: Answer) -> str:
    """The server's reason, from the two fields that are meant for people, without secrets."""
    try:
        failure = msgspec.json.decode(response.body, type=_Failure)
    except UNREADABLE:
        return ""
    text = ", ".join(filter(None, (failure.error, failure.error_description)))
    return f": {peer.hide(text)[:300]}" if text else ""
