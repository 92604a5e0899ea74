"""A rollout in stages, decided step by step: against a model of the Factory and its devices, in memory."""

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fioctl_rotate.rotation.entry import FILE_NAME, settle_reason
from fioctl_rotate.rotation.picture import Memory
from fioctl_rotate.rotation.progress import STARTED, parse_time
from fioctl_rotate.rotation.rollout import Do, Verdict
from fioctl_rotate.rotation.stage_states import Point, StageStatus
from fioctl_rotate.rotation.stages import parse_share
from tests.rotation.model_device import value_of
from tests.rotation.rollout_model import OTHER_FILE, Run, World, rotate_all

NEW = {Do.CLEAR_GROUP, Do.CLEAR_FLEET, Do.GIVE, Do.GIVE_GROUP}


def start(devices: int = 6, sizes: tuple[int, ...] = (1, 2), older: str | None = None, **options: Any) -> Run:
    world = World([f"d{number}" for number in range(1, devices + 1)])
    if older:
        rotate_all(world, world.group, older)
    return Run(world, world.plan(list(sizes), **options), Memory())


def ids_rotated(run: Run) -> list[list[str]]:
    return [device.rotated for device in run.world.devices.values()]


def test_a_good_rollout_ends_with_every_device_done_and_no_entry_of_its_own() -> None:
    run = start()
    assert run.to_end().verdict is Verdict.DONE
    assert ids_rotated(run) == [["certs-9"]] * 6
    assert [record.own.entry for record in run.world.records.values()] == [None] * 6
    assert run.world.group.entry == value_of("certs-9")
    order = [action.do for action in run.world.sent]
    assert order.index(Do.GIVE_GROUP) < order.index(Do.TAKE_BACK) < order.index(Do.SETTLE_GROUP)
    assert [action.device.name for action in run.world.sent if action.do is Do.GIVE and action.device] == [
        "d1",
        "d2",
        "d3",
    ]
    # Applied once more, there is nothing left to send.
    sent = len(run.world.sent)
    assert run.to_end(rounds=3).verdict is Verdict.DONE
    assert len(run.world.sent) == sent


def test_the_next_stage_begins_after_the_soak_and_one_more_check_in() -> None:
    run = start(soak=20 * 60)
    for _ in range(20):
        decision = run.poll()
        if decision.stages[0].status is StageStatus.SOAKING:
            break
        run.pass_time()
    until = decision.stages[0].until
    assert until == run.world.records["d1"].last_seen + timedelta(minutes=20)
    run.pass_time(30, off={"d1"})
    # Its soak is over, and it was not seen: it may be bricked.
    assert run.poll().stage == 1
    run.pass_time(1)
    assert run.poll().stage == 2


def test_an_est_server_that_does_not_work_stops_after_the_first_stage() -> None:
    run = start()
    run.world.down.add("certs-9")
    decision = run.to_end()
    assert (decision.verdict, decision.stage) == (Verdict.FAILED, 1)
    assert decision.message == (
        "stage 1 of 3 failed on 1 of 1 devices (0 allowed): d1: Generate new certificate: no"
    )
    assert [action.do for action in run.world.sent] == [Do.GIVE]
    run.world.down.clear()
    run.pass_time()
    assert run.to_end().verdict is Verdict.DONE
    assert ids_rotated(run) == [["certs-9"]] * 6


def test_a_failed_step_holds_the_next_stage_back_before_it_counts() -> None:
    run = start()
    run.world.down.add("certs-9")
    run.poll()
    run.pass_time(5)
    decision = run.poll()
    assert (decision.verdict, decision.actions) == (Verdict.GO_ON, ())
    assert decision.stages[0].devices[0].point is Point.FAILING
    run.pass_time(9)
    assert run.poll().verdict is Verdict.GO_ON
    run.pass_time(1)
    assert run.poll().verdict is Verdict.FAILED


def test_allowed_failures_pass_and_are_not_waited_for() -> None:
    run = start(8, (4,), max_failures=parse_share("30%", "x"))
    run.world.records["d2"].own.change(None, "x", run.world.now)
    run.poll()
    for name in ("d1", "d3", "d4"):
        run.world.devices[name].check_in()
    run.world.down.add("certs-9")
    run.world.now += timedelta(minutes=1)
    run.world.devices["d2"].check_in()
    run.world.down.clear()
    off = {"d2"}
    for _ in range(12):
        decision = run.poll()
        if decision.stage == 2:
            break
        run.pass_time(off=off)
    assert decision.stage == 2
    assert [state.device.name for state in decision.stages[0].failures] == ["d2"]
    assert run.to_end().verdict is Verdict.DONE


def test_a_reboot_in_the_soak_over_an_older_entry_is_harm_that_stops_it() -> None:
    run = start(older="certs-1")
    run.poll()
    run.pass_time()
    run.pass_time(1, reboot={"d1"})
    run.pass_time(1)
    decision = run.to_end(reboot={"d1"})
    assert decision.verdict is Verdict.FAILED
    assert "d1: it began another rotation, certs-1" in decision.message


def test_after_a_failed_stage_those_that_have_rotated_are_settled_and_no_other_begins() -> None:
    run = start(older="certs-1", sizes=(3,))
    run.poll()
    run.pass_time()
    # One reboots before it is settled, and rotates again; the two others must not be left to the next reboot.
    run.world.devices["d1"].reboot()
    sent = len(run.world.sent)
    assert run.poll().verdict is Verdict.FAILED
    new = [(action.do, action.device.name) for action in run.world.sent[sent:] if action.device]
    assert (Do.SETTLE, "d2") in new
    assert {do for do, _ in new} == {Do.SETTLE}
    for _ in range(3):
        # The first settling was in the second of Finalize, and is sent again.
        run.pass_time()
        run.poll()
    run.pass_time(reboot={"d2", "d3"})
    assert run.world.devices["d2"].rotated == ["certs-1", "certs-9"]


@pytest.mark.parametrize("fleet_wide", [False, True])
def test_clearing_the_older_entry_first_makes_a_reboot_harmless(fleet_wide: bool) -> None:
    run = start(older=None if fleet_wide else "certs-1")
    if fleet_wide:
        rotate_all(run.world, run.world.fleet, "certs-1")
    clearing: dict[str, Any] = {"clear_fleet" if fleet_wide else "clear_group": True}
    run.rollout = run.world.plan([1, 2], **clearing)
    assert run.poll().stage == 0
    # Not before the device has stored that the older entry is gone.
    assert run.poll().actions == ()
    everybody = set(run.world.devices)
    assert run.to_end(reboot=everybody).verdict is Verdict.DONE
    assert ids_rotated(run) == [["certs-1", "certs-9"]] * 6


def test_a_fleet_wide_entry_is_cleared_before_the_group_s_which_hides_it() -> None:
    run = start()
    rotate_all(run.world, run.world.fleet, "certs-0")
    rotate_all(run.world, run.world.group, "certs-1")
    run.rollout = run.world.plan([1, 2], clear_group=True, clear_fleet=True)
    for _ in range(3):
        run.poll(limit=1)
        run.pass_time()
    assert run.to_end().verdict is Verdict.DONE
    assert ids_rotated(run) == [["certs-0", "certs-1", "certs-9"]] * 6


def test_an_older_entry_that_is_pushed_again_after_it_was_cleared_is_foreign() -> None:
    run = start(older="certs-1", clear_group=True)
    while not any(action.do is Do.GIVE for action in run.poll().actions):
        run.pass_time()
    run.world.group.change(value_of("certs-1"), "by hand", run.world.now)
    decision = run.poll()
    assert (decision.verdict, decision.actions) == (Verdict.REFUSED, ())
    assert decision.message == "group field has rotation certs-1 again, which this plan has deleted"


def test_a_fleet_wide_push_while_the_group_s_older_entry_is_cleared_is_foreign() -> None:
    run = start(older="certs-1", clear_group=True)
    run.world.fleet.change(value_of("certs-5"), "by hand", run.world.now)
    decision = run.poll()
    assert (decision.verdict, decision.actions) == (Verdict.REFUSED, ())
    assert decision.message == "the fleet has rotation certs-5 now, which is not from this plan"


def test_a_device_that_is_not_seen_after_the_soak_has_failed_when_the_stage_s_time_is_over() -> None:
    run = start(stage_timeout=3600)
    while run.poll().stages[0].status is not StageStatus.SOAKING:
        run.pass_time()
    run.pass_time(30, off={"d1"})
    assert run.poll().verdict is Verdict.GO_ON
    run.pass_time(30, off={"d1"})
    decision = run.poll()
    assert decision.verdict is Verdict.FAILED
    assert "d1: not seen after the soak" in decision.message
    # It comes back after all.
    run.pass_time()
    assert run.to_end().verdict is Verdict.DONE


def test_a_group_whose_devices_finalize_and_do_not_come_back_is_no_success() -> None:
    run = start()
    while run.world.group.entry is None:
        run.poll()
        run.pass_time()
    run.world.untrusted.add("certs-9")
    decision = run.to_end()
    assert decision.verdict is Verdict.FAILED
    assert decision.message == "3 of 6 devices failed (0 allowed)"


def test_settling_makes_a_reboot_harmless() -> None:
    run = start(older="certs-1")
    while run.poll().stages[0].devices[0].point is not Point.DONE:
        run.pass_time()
    assert run.to_end(reboot={"d1"}).verdict is Verdict.DONE
    assert run.world.devices["d1"].rotated == ["certs-1", "certs-9"]


def test_what_somebody_else_pushed_stops_it_and_is_named() -> None:
    run = start()
    run.poll()
    run.world.group.change(value_of("certs-5"), "by hand", run.world.now)
    decision = run.poll()
    assert (decision.verdict, decision.actions) == (Verdict.REFUSED, ())
    assert decision.message == "group field has rotation certs-5 now, which is not from this plan"
    run.world.group.change(None, "undo", run.world.now)
    run.world.records["d3"].own.change(value_of("certs-5"), "by hand", run.world.now)
    assert run.poll().message == "device d3 has rotation certs-5 of its own now, which is not from this plan"


def test_a_rotation_that_was_stopped_is_not_pushed_again() -> None:
    run = start()
    run.poll()
    run.world.records["d1"].own.change(None, "stop", run.world.now)
    assert run.poll().message == "device d1 had rotation certs-9, and has no entry now: it was stopped"


def test_a_stage_that_takes_too_long_fails() -> None:
    run = start(stage_timeout=3600)
    run.poll()
    run.pass_time(59, off={"d1"})
    assert run.poll().verdict is Verdict.GO_ON
    run.pass_time(1, off={"d1"})
    assert "d1: not done when the stage's time was over: given" in run.poll().message


@pytest.mark.parametrize("trouble", ["its EST server is down", "it is off"])
def test_a_stage_whose_time_was_over_goes_on_once_its_devices_have_recovered(trouble: str) -> None:
    run = start(stage_timeout=3600)
    while run.poll().stage == 1:
        run.pass_time()
    if trouble == "it is off":
        run.pass_time(90, off={"d2"})
    else:
        run.world.down.add("certs-9")
        run.pass_time(90)
    assert run.to_end(off={"d2"}).verdict is Verdict.FAILED
    run.world.down.clear()
    run.pass_time()
    assert "d2: not done when the stage's time was over: finalized" in run.poll().message
    run.pass_time()
    assert run.poll().verdict is Verdict.GO_ON
    assert run.to_end().verdict is Verdict.DONE
    assert ids_rotated(run) == [["certs-9"]] * 6


def test_one_that_recovered_late_and_is_never_seen_again_fails_its_stage_after_all() -> None:
    run = start(stage_timeout=3600)
    run.poll()
    run.pass_time(90, off={"d1"})
    for verdict in (Verdict.FAILED, Verdict.FAILED, Verdict.GO_ON):
        assert run.poll().verdict is verdict
        run.pass_time()
    run.pass_time(30, off={"d1"})
    decision = run.poll()
    assert (decision.verdict, decision.stages[0].devices[0].point) == (Verdict.FAILED, Point.FAILED)


def test_one_device_that_never_comes_back_does_not_hold_up_the_others() -> None:
    run = start()
    decision = run.to_end(off={"d6"})
    assert (decision.verdict, decision.message) == (
        Verdict.DONE,
        "without d6; apply the plan again once they are back, to settle them",
    )
    assert [record.own.entry for record in run.world.records.values()] == [None] * 6
    assert run.world.devices["d6"].rotated == []


@settings(max_examples=60)
@given(st.data())
def test_whatever_happens_no_device_is_harmed_by_the_rollout(data: st.DataObject) -> None:
    older = data.draw(st.sampled_from([None, "certs-1"]))
    clear = older is not None and data.draw(st.booleans())
    run = start(6, (1, 2), older, clear_group=clear, soak=data.draw(st.sampled_from([0, 600])))
    before = {name: len(device.rotated) for name, device in run.world.devices.items()}
    names = sorted(run.world.devices)
    for device in run.world.devices.values():
        # From the next rotation on, it misses each change that is not newer than its clock was then.
        device.ahead = timedelta(minutes=data.draw(st.sampled_from([0, 0, 4, 20])))
    failed = False
    for _ in range(data.draw(st.integers(5, 30))):
        run.world.down = data.draw(st.sampled_from([set(), {"certs-9"}, set()]))
        if data.draw(st.booleans()):
            # Another machine, or the folder with what is kept is gone.
            run.memory = Memory()
            run.world.done_by.clear()
        sent = len(run.world.sent)
        decision = run.poll(limit=data.draw(st.integers(0, 3)))
        if failed and any(state.status is StageStatus.FAILED for state in decision.stages):
            assert not {action.do for action in run.world.sent[sent:]} & NEW
        failed = decision.verdict is Verdict.FAILED
        reboot = set(data.draw(st.lists(st.sampled_from(names), max_size=2)))
        run.pass_time(
            data.draw(st.integers(1, 15)),
            reboot=reboot,
            off=set(data.draw(st.lists(st.sampled_from(names), max_size=3))),
        )
    for name, device in run.world.devices.items():
        new = device.rotated[before[name] :]
        # Never two ids from the rollout itself; the older one comes back only where it was left to.
        assert set(new) <= {"certs-9", older}
        assert new.count("certs-9") <= 1 or older in new
        if clear and name in ("d1", "d2", "d3"):
            assert new in ([], ["certs-9"])
    logs = [run.world.group.log, *(record.own.log for record in run.world.records.values())]
    for config in itertools.chain(*logs):
        assert [file for file in config.files or [] if file.name != FILE_NAME] == [OTHER_FILE]
    # Whatever happened, it can be brought to its end once everything works again, unless a device was harmed.
    run.world.down = set()
    run.pass_time()
    end = run.to_end(rounds=60)
    assert end.verdict in (Verdict.DONE, Verdict.FAILED)
    if end.verdict is Verdict.DONE:
        # One whose clock is ahead misses changes, the settling among them: a reboot may bring the older one back.
        for device in run.world.devices.values():
            assert device.completed == "certs-9" or (device.ahead and device.completed == older)
        assert {record.own.entry for record in run.world.records.values()} == {None}
    else:
        assert "another rotation" in end.message, end


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_a_stage_whose_devices_are_all_gone_has_failed_and_does_not_wait_for_ever(how: str) -> None:
    run = start(sizes=(1, 1))
    getattr(run.world, how).add("d2")
    decision = run.to_end()
    assert (decision.verdict, decision.stage) == (Verdict.FAILED, 2)
    assert Do.GIVE_GROUP not in [action.do for action in run.world.sent]
    run.rollout = replace(run.rollout, stages=replace(run.rollout.stages, max_failures=parse_share("1", "x")))
    assert run.to_end(off={"d2"}).verdict is Verdict.DONE


def test_a_device_that_left_its_stage_stops_it_before_another_one_is_given_anything() -> None:
    run = start()
    run.world.moved.add("d2")
    decision = run.to_end()
    assert decision.message == "stage 2 of 3 failed on 1 of 2 devices (0 allowed): d2: it left group field"
    assert [action.device.name for action in run.world.sent if action.do is Do.GIVE and action.device] == [
        "d1"
    ]


def test_a_failure_that_is_allowed_holds_no_other_device_of_its_stage_back() -> None:
    """The older entry is cleared first: a device gets its own one only once it was seen after that."""
    run = start(6, (2,), "certs-1", clear_group=True, max_failures=parse_share("1", "x"))
    run.world.down.add("certs-9")
    run.poll()
    for _ in range(4):
        run.pass_time(off={"d2"})
        assert run.poll().verdict is Verdict.GO_ON
    assert run.world.records["d2"].own.entry is None
    run.world.down.clear()
    run.pass_time(off={"d1"})
    assert [action.device.name for action in run.poll().actions if action.device] == ["d2"]


def test_a_step_that_fails_holds_the_others_of_its_stage_back_until_it_counts() -> None:
    run = start(6, (2,), "certs-1", clear_group=True, max_failures=parse_share("1", "x"))
    run.world.down.add("certs-9")
    while run.poll().stages[0].devices[0].point is not Point.FAILING:
        run.pass_time(off={"d2"})
    # It stores that the older entry is gone, and could begin.
    run.pass_time(5)
    assert run.poll().actions == ()
    run.pass_time(5)
    assert [action.device.name for action in run.poll().actions if action.device] == ["d2"]


def test_a_soak_begins_anew_where_a_device_is_settled_once_more() -> None:
    run = start(soak=3600)

    def soaking() -> datetime:
        for _ in range(9):
            first = run.poll().stages[0]
            if first.status is StageStatus.SOAKING:
                assert first.until
                return first.until
            run.pass_time()
        raise AssertionError("the soak does not begin")

    until = soaking()
    run.pass_time(20)
    run.world.records["d1"].own.change(run.rollout.value, settle_reason("certs-9"), run.world.now)
    assert run.poll().stages[0].status is StageStatus.RUNNING
    assert soaking() >= until + timedelta(minutes=20)


def test_one_that_recovers_after_its_stage_has_passed_is_settled_too() -> None:
    run = start(8, (2, 2), "certs-1", max_failures=parse_share("1", "x"), soak=0)
    run.poll()
    run.world.devices["d1"].check_in()
    run.world.down.add("certs-9")
    run.world.devices["d2"].check_in()
    run.world.down.clear()
    while run.poll().stage == 1:
        run.pass_time(off={"d2"})
    run.pass_time(off={"d3", "d4"})
    run.pass_time(off={"d3", "d4"})
    assert (Do.SETTLE, "d2") in [(a.do, a.device.name) for a in run.poll().actions if a.device]


def test_an_early_device_that_is_harmed_in_the_last_stage_counts_there() -> None:
    run = start(older="certs-1")
    while run.world.group.entry != value_of("certs-9"):
        run.poll()
        run.pass_time()
    # What it stores is known to be right; so this is somebody's own push, and was deleted again.
    run.world.post("d1", "certs-1", STARTED)
    decision = run.to_end()
    assert decision.verdict is Verdict.FAILED
    assert decision.message == ("1 of 6 devices failed (0 allowed): d1: it began another rotation, certs-1")


def test_an_early_device_that_is_deleted_once_it_was_done_is_no_failure() -> None:
    run = start()
    while run.world.group.entry is None:
        run.poll()
        run.pass_time()
    run.world.deleted.add("d1")
    assert run.to_end(off={"d1"}).verdict is Verdict.DONE


def test_a_fleet_wide_push_is_foreign_where_the_group_has_no_entry() -> None:
    run = start()
    run.poll()
    run.world.fleet.change(value_of("certs-5"), "by hand", run.world.now)
    decision = run.poll()
    assert (decision.verdict, decision.actions) == (Verdict.REFUSED, ())
    assert decision.message == "the fleet has rotation certs-5 now, which is not from this plan"


def test_a_fleet_wide_push_under_the_older_entry_of_the_group_reaches_nobody() -> None:
    run = start(older="certs-1")
    run.poll()
    run.world.fleet.change(value_of("certs-5"), "by hand", run.world.now)
    assert run.to_end().verdict is Verdict.DONE


def test_a_device_that_got_another_key_before_its_stage_has_failed() -> None:
    """A new key proves the rotation only where the plan knows the old one."""
    run = start()
    run.world.records["d2"].key += 1
    decision = run.to_end()
    assert (decision.verdict, decision.stage) == (Verdict.FAILED, 2)
    assert "d2: it has another key than when the plan was made" in decision.message


def test_an_entry_that_a_device_misses_is_sent_again_each_time_after_twice_as_long() -> None:
    run = start(2, (1,))
    begin = run.world.now
    # Its clock was ahead at its last change: before that time it fetches nothing.
    run.world.devices["d1"].stored_at = begin + timedelta(hours=1)
    for _ in range(50):
        run.poll()
        run.pass_time(1)
    times = [parse_time(config.created_at) for config in reversed(run.world.records["d1"].own.log)]
    assert times == [begin + timedelta(minutes=minutes) for minutes in (0, 1, 3, 7, 15, 31)]
    assert run.to_end().verdict is Verdict.DONE
