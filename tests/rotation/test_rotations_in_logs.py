"""Rotations as configuration logs show them, and releases from what devices report."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.ops.rotations import in_log
from fioctl_rotate.ops.targets import current_entry_of
from fioctl_rotate.rotation.outcome import LOG_LENGTH
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.rotation.state import Rotation, lmp_release
from fioctl_rotate.wire import Config, ConfigFile

FIELD = Scope.of_group("field")


def config(minute, rotation=None, other="x", reason="why"):
    files = [ConfigFile(name="other", value=other)]
    if rotation is not None:
        value = (
            f"ESTSERVER=https://{rotation}:8443/est\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID={rotation}\n"
        )
        files.append(ConfigFile(name="fio-rotate-certs", value=value, unencrypted=True))
    return Config(created_at=f"2026-11-24T12:{minute:02}:00", created_by="me", reason=reason, files=files)


def found(*log):
    return [(r.id, r.pushed_at and r.pushed_at.minute, r.current) for r in in_log(log, FIELD)]


def test_no_log_and_no_entry():
    assert found() == []
    assert found(config(1)) == []


def test_push_is_the_first_entry_that_has_it():
    """Whatever was merged into the configuration since carries the file on."""
    assert found(config(9, "b"), config(8, "b"), config(7, "a"), config(6, "a"), config(5)) == [
        ("b", 8, True),
        ("a", 6, False),
    ]


def test_deleted_entry_is_no_longer_current():
    assert found(config(9), config(8, "a")) == [("a", 8, False)]


def test_same_id_pushed_again_after_another_is_a_push_of_its_own():
    assert found(config(9, "a"), config(8, "b"), config(7, "a")) == [
        ("a", 9, True),
        ("b", 8, False),
        ("a", 7, False),
    ]


def test_rotation_older_than_a_full_log_has_no_time_of_its_push():
    """Devices may have begun before the oldest entry that is kept."""
    full = [config(30 - n, "a") for n in range(LOG_LENGTH)]
    assert found(*full) == [("a", None, True)]
    assert found(*full[:-1]) == [("a", 22, True)]


def test_what_the_log_says_of_a_rotation():
    rotation = in_log([config(9, "b", reason="again"), config(8, "b", reason="yearly")], FIELD)[0]
    assert rotation == Rotation(
        "b",
        FIELD,
        est_server="https://b:8443/est",
        pushed_at=datetime(2026, 11, 24, 12, 8, tzinfo=UTC),
        pushed_by="me",
        reason="yearly",
        current=True,
    )


def test_current_entry_is_that_of_the_newest_configuration():
    assert current_entry_of([]).rotation_id is None
    assert current_entry_of([config(9), config(8, "a")]).rotation_id is None
    assert current_entry_of([config(9, "b"), config(8, "a")]).rotation_id == "b"
    encrypted = Config(files=[ConfigFile(name="fio-rotate-certs", value="BAi3…")])
    assert current_entry_of([encrypted]).rotation_id not in (None, "b")


@pytest.mark.parametrize(
    ("version", "release"),
    [
        ("4.0.20-2-94.1", 94),
        ("4.0.11-1640-91", 91),
        ("3.1.4-88-89-12-gabcdef", 89),
        ("94", 94),
        ("v94.1", 94),
        ("lmp-88", 88),
        ("LmP 95", 95),
        ("95-rc1", 95),
        ("4.0.20", None),
        ("3234-91", None),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_lmp_release(version, release):
    assert lmp_release(version) == release


@given(st.text(max_size=30))
def test_lmp_release_of_anything(version):
    release = lmp_release(version)
    assert release is None or 10 <= release < 1000
