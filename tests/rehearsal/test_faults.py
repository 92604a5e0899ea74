"""Faults of a rehearsal as people type them."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.faults import (
    ClockOffset,
    Faults,
    Window,
    parse_clock_offset,
    parse_est_fault,
    parse_window,
)


def test_what_is_understood() -> None:
    assert parse_est_fault("404") == ("404", Window())
    assert parse_est_fault("stop@90") == ("stop", Window(90, math.inf))
    assert parse_est_fault("foreign-ca@2h-1d") == ("foreign-ca", Window(7200, 86400))
    assert parse_window("0-5m", "--x") == Window(0, 300)
    assert parse_clock_offset("2h:5") == ClockOffset(7200, 5)
    assert parse_clock_offset("-2h") == ClockOffset(-7200, 100)


@pytest.mark.parametrize("text", ["", "dead", "404@", "404@2h-1h", "404@x", "404@1h-", "404@1h-2h-3h"])
def test_an_est_fault_that_is_not_one(text: str) -> None:
    with pytest.raises(UsageError):
        parse_est_fault(text)


@pytest.mark.parametrize("text", ["", "2h:", "2h:0", "2h:101", "2h:x", "--2h", "2h:5:5", "2h:٣"])
def test_a_clock_offset_that_is_not_one(text: str) -> None:
    with pytest.raises(UsageError):
        parse_clock_offset(text)


@given(st.text(max_size=20))
def test_anything_is_understood_or_wrong_usage(text: str) -> None:
    for parse in (parse_est_fault, parse_clock_offset, lambda text: parse_window(text, "--x")):
        with contextlib.suppress(UsageError):
            parse(text)


def test_when_a_fault_is_on() -> None:
    faults = Faults(est="404", est_window=Window(10, 20), gateway=Window(15, 30))
    assert [faults.est_at(time) for time in (9, 10, 19, 20)] == [None, "404", "404", None]
    assert [faults.gateway_at(time) for time in (14, 15, 29, 30)] == [False, True, True, False]
    assert faults.over == 30
    assert Faults(est="404").over == 0


def test_percentages_are_rounded_up_and_the_same_devices_each_time() -> None:
    devices = [f"d{number}" for number in range(30)]
    chosen = ClockOffset(60, 5).of(devices)
    assert len(chosen) == 2
    assert chosen == ClockOffset(60, 5).of(list(reversed(devices)))
