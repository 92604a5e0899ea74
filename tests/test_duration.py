"""Durations as people type them, on the command line and in the settings."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.duration import LONGEST, duration_text, parse_duration
from fioctl_rotate.errors import UsageError
from fioctl_rotate.settings import Flags, resolve
from tests.commandline import Cli


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("0.5", 0.5), (".5m", 30), ("15m", 900), ("2h", 7200), ("1d", 86400), ("0", 0)],
)
def test_a_bare_number_is_seconds_and_a_unit_multiplies_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "s", "-1", "+1", "1e9", "inf", "nan", "²", "٣", "1 h", "1h30m", "1w", "1H", "1\n"),
        *("9" * 5000, "3651d"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


@given(st.text() | st.from_regex(r"[0-9.]+[smhd]?", fullmatch=True))
def test_any_text_is_a_duration_within_bounds_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert 0 <= parse_duration(text) <= LONGEST


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (12, "12 s"), (90, "1 min 30 s"), (600, "10 min"), (7380, "2 h 3 min"), (86400, "1 d")],
)
def test_a_duration_is_said_in_its_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@given(st.floats(0, LONGEST))
def test_what_is_said_of_a_duration_adds_up_to_it(seconds: float) -> None:
    parts = (
        duration_text(seconds).replace(" min", "m").replace(" s", "s").replace(" h", "h").replace(" d", "d")
    )
    assert sum(parse_duration(part) for part in parts.split()) == round(seconds)


@pytest.mark.parametrize("interval", ["0.01", "0s", "soon", "1h30m", "4000d"])
def test_an_option_that_is_not_a_duration_is_named(cli: Cli, interval: str) -> None:
    result = cli("rotations", "watch", "certs-1", "-g", "field", "--interval", interval)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: invalid value for '--interval': ")
    assert f"`{interval}`" in result.err


@pytest.mark.parametrize(("value", "seconds"), [("2m", 120), ("45", 45), ("0.2", 0.2)])
def test_the_timeout_setting_is_a_duration_too(value: str, seconds: float) -> None:
    environ = {"FIOCTL_TOKEN": "t", "FIOCTL_ROTATE_TIMEOUT": value}
    assert resolve(Flags(factory="acme", server="http://localhost:1"), environ).timeout == seconds
