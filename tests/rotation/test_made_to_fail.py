"""`--fail STEP[:PERCENT]`: what is taken, and on which devices it falls."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation.made_to_fail import MadeToFail, failing_steps, parse_made_to_fail
from fioctl_rotate.rotation.progress import STEPS
from tests.commandline import Cli

FAULTS = st.builds(MadeToFail, st.integers(1, 5), st.one_of(st.none(), st.integers(1, 100)))


@given(FAULTS)
def test_what_is_shown_is_what_is_typed(fault: MadeToFail) -> None:
    assert parse_made_to_fail(str(fault)) == fault


@given(st.text(max_size=8))
def test_anything_else_is_a_usage_error(text: str) -> None:
    if re.fullmatch(r"0{0,2}[1-5](:0{0,2}[1-9]|:0?[1-9][0-9]|:100)?", text, re.ASCII):
        return
    with pytest.raises(UsageError, match="expected STEP or STEP:PERCENT"):
        parse_made_to_fail(text)


@given(st.lists(FAULTS, max_size=4), st.lists(st.text("abc", min_size=1), unique=True, max_size=30))
def test_each_fault_falls_on_the_next_devices(faults: list[MadeToFail], devices: list[str]) -> None:
    steps = failing_steps(faults, devices)
    assert list(steps) == devices[: len(steps)]
    expected: list[str] = []
    for step, percent in faults:
        expected += [STEPS[step - 1]] * (1 if percent is None else (len(devices) * percent + 99) // 100)
    assert list(steps.values()) == expected[: len(devices)]


@pytest.mark.parametrize("text", ["0", "6", "1:", "1:0", "1:101", ":5", "1:5:5", "x", "", "٣"])
def test_a_wrong_one_is_refused_where_devices_run(cli: Cli, acme: Path, text: str) -> None:
    result = cli("mock", "devices", acme, "--fail", text)
    assert (result.code, "expected STEP or STEP:PERCENT" in result.err) == (2, True)
