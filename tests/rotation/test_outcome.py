"""The outcome of a push, from the logs before and after it."""

from typing import Any

import msgspec

from fioctl_rotate.rotation.outcome import LOG_LENGTH, OutcomeKind, judge
from fioctl_rotate.rotation.plan import Plan, RotationRequest, make_plan
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.wire import Config


def plan_of(number: int) -> Plan:
    request = RotationRequest("yearly", rotation_id=f"certs-{number}")
    return make_plan(
        request,
        factory="acme",
        server="https://api.foundries.io",
        scope=Scope.of_group("field"),
        est_host="est.example.com",
        unix_seconds=number,
    )


def config(body: dict[str, Any]) -> Config:
    return msgspec.convert(body, Config)


OURS, OLDER = config(plan_of(1).body), config(plan_of(0).body)
OTHERS = [config(plan_of(number).body) for number in range(2, 20)]


def test_a_full_log_whose_oldest_entry_is_ours_does_not_tell_what_we_replaced() -> None:
    after = [*OTHERS[: LOG_LENGTH - 1], OURS]
    outcome = judge(plan_of(1), [OLDER], after, refused=False)
    assert (outcome.kind, outcome.replaced) == (OutcomeKind.REPLACED, None)


def test_an_entry_and_a_deletion_that_came_between_are_named() -> None:
    deletion = config({"reason": "x", "files": []})
    for between, name in ((deletion, "a deletion of fio-rotate-certs"), (OTHERS[0], "rotation certs-2")):
        outcome = judge(plan_of(1), [OLDER], [OURS, between, OLDER], refused=False)
        assert (outcome.kind, outcome.replaced) == (OutcomeKind.LANDED, name)
