"""Times in HTTP headers, as proxies, gateways and devices write them, and as an attacker might."""

import datetime
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fioctl_rotate.http_date import parse_http_date

MOMENT = datetime.datetime(2026, 11, 25, 18, 0, 5, tzinfo=datetime.UTC)


@pytest.mark.parametrize("zone", ["GMT", "UTC", "+0000", "-0000"])
def test_a_date_is_aware_whatever_its_zone_is_called(zone: str) -> None:
    assert parse_http_date(f"Wed, 25 Nov 2026 18:00:05 {zone}") == MOMENT


@given(st.integers(0, 2**33))
def test_a_date_that_was_written_is_read_again(seconds: int) -> None:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    assert parse_http_date(format_datetime(moment, usegmt=True)) == moment


@given(
    st.text()
    | st.lists(
        st.sampled_from(["Wed,", "25", "Nov", "2026", "9" * 20, "18:00:05", "²", "+", "GMT", "-", ":"])
    ).map(" ".join)
)
@example(f"Wed, 25 Nov 2026 18:00:05 +{'9' * 20}")
@example(f"Wed, 25 Nov {'9' * 20} 18:00:05 GMT")
@example("Wed, 25 Nov 2026 18:00:05 +9999")
def test_any_text_is_a_time_with_a_zone_or_none(text: str) -> None:
    parsed = parse_http_date(text)
    assert parsed is None or parsed.tzinfo is not None
