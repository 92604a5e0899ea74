"""The sizes of stages, and which devices an early one begins with."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.rotation.stages import Candidate, choose, parse_share, parse_sizes, stages_from

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def candidate(
    name: str, *, lmp: str = "95", target: str = "lmp-1", minutes: int = 0, excluded: str | None = None
) -> Candidate:
    return Candidate(f"uuid-{name}", name, NOW - timedelta(minutes=minutes), lmp, target, excluded)


def names(stages: list[list[Candidate]]) -> list[list[str]]:
    return [[device.name for device in stage] for stage in stages]


@pytest.mark.parametrize(
    ("text", "total", "up", "down"),
    [
        ("3", 10, 3, 3),
        ("5%", 10, 1, 0),
        ("25%", 10, 3, 2),
        ("100%", 7, 7, 7),
        ("0.5%", 1000, 5, 5),
        ("0", 9, 0, 0),
    ],
)
def test_a_share_is_a_number_or_a_percentage(text: str, total: int, up: int, down: int) -> None:
    share = parse_share(text, "--stages")
    assert (share.rounded_up(total), share.rounded_down(total)) == (up, down)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "101%", "5 %%", "²", "1e3", "9" * 5000, "%"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-failures: expected"):
        parse_share(text, "--max-failures")


@pytest.mark.parametrize("text", ["0,5", "5,5", "5%,5%", "25%,5%", "1,,2", "0%"])
def test_sizes_are_cumulative(text: str) -> None:
    with pytest.raises(UsageError, match="--stages"):
        parse_sizes(text)


def test_stages_are_spread_over_what_devices_run_those_seen_last_first() -> None:
    devices = [
        *(candidate(f"a{n}", minutes=n) for n in range(1, 5)),
        candidate("b1", lmp="94"),
        candidate("c1", target="lmp-2", minutes=9),
        candidate("off", excluded="offline"),
    ]
    assert names(choose(devices, parse_sizes("1,50%"))) == [["a1"], ["b1", "c1", "a2"]]
    assert names(choose(devices, parse_sizes("100%"))) == [["a1", "b1", "c1", "a2", "a3", "a4"]]


def test_canaries_come_first_and_are_not_counted() -> None:
    devices = [candidate(f"d{n}", minutes=n) for n in range(1, 5)]
    assert names(choose(devices, parse_sizes("1"), ["d3", "uuid-d2", "d3"])) == [["d3", "d2"], ["d1"]]
    assert names(choose(devices, (), ["d4"])) == [["d4"]]


@pytest.mark.parametrize("name", ["nobody", "off"])
def test_a_canary_that_cannot_follow_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=f"canary {name}"):
        choose([candidate("off", excluded="offline"), candidate("d1")], (), [name])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_the_same_devices_give_the_same_stages(kinds: list[tuple[str, bool]]) -> None:
    devices = [
        candidate(f"d{n}", target=kind, minutes=n % 4, excluded="offline" if off else None)
        for n, (kind, off) in enumerate(kinds)
    ]
    sizes = parse_sizes("1,20%,60%")
    stages = choose(devices, sizes)
    assert names(choose(devices[::-1], sizes)) == names(stages)
    chosen = [device for stage in stages for device in stage]
    assert len({device.uuid for device in chosen}) == len(chosen)
    assert all(device.excluded is None for device in chosen)
    assert all(stages)


@pytest.mark.parametrize(
    "change",
    [
        {"soak": "10"},
        {"soak": -1},
        {"soak": True},
        {"max-failures": 1},
        {"max-failures": "many"},
        {"early": [{"devices": []}]},
        {"early": [{"devices": [{"uuid": "u", "name": "d"}]}]},
        {"early": [{"devices": [{"uuid": "u", "name": "d", "key": "k"}] * 2}]},
        {"early": 3},
    ],
)
def test_stages_in_a_file_are_checked(change: dict[str, object]) -> None:
    early = [{"devices": [{"uuid": "u", "name": "d", "key": "k"}]}]
    document = {
        "soak": 1,
        "max-failures": "0",
        "stage-timeout": 9,
        "clear-group": False,
        "clear-fleet": False,
    }
    assert stages_from({**document, "early": early}).devices[0].name == "d"
    with pytest.raises((UsageError, KeyError, TypeError)):
        stages_from({**document, "early": early, **change})
