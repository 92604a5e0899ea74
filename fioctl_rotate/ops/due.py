"""Find out when each device must rotate: from its updates, the configurations with its entries, and the EST log.

Answers are stored in the user's state folder, in one file for each server and Factory. A device that was not seen
since is not read again. Of a device that was seen, only its new updates are read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from fioctl_rotate import wire
from fioctl_rotate.api.client import FactoryApi
from fioctl_rotate.api.failures import ApiError
from fioctl_rotate.files import write_atomic
from fioctl_rotate.folders import state_folder
from fioctl_rotate.ops.at_once import Pace, for_each
from fioctl_rotate.ops.est_log import Issued, read_est_log
from fioctl_rotate.ops.rotations import in_log
from fioctl_rotate.ops.watch import events_of
from fioctl_rotate.rotation.due import Due, LastRotation, Source, by_date, due, rotation_date
from fioctl_rotate.rotation.entry import FILE_NAME, rotation_id_of
from fioctl_rotate.rotation.progress import LAST, Phase, Time, from_events, parse_time
from fioctl_rotate.rotation.scope import Scope

_LARGEST = 256 << 20  # bytes of the file of answers


class Answer(msgspec.Struct):
    """What is stored of a device: its last-seen and updates when it was read, and its last rotation."""

    last_seen: Time | None
    updates: list[str]
    ended: LastRotation | None


async def who_is_due(
    api: FactoryApi,
    scope: Scope,
    *,
    lifetime: timedelta,
    within: timedelta,
    now: datetime,
    est_log: Path | None = None,
) -> list[Due]:
    """When each device of the scope must rotate, the earliest first. Raises Error if the EST log cannot be read."""
    issued = _newest(read_est_log(est_log)) if est_log is not None else {}
    devices = await api.devices(scope.device_filters)
    known = _load(api)
    pushes: dict[str, Mapping[str, datetime]] = {}
    asked = [device for device in devices if _changed(device, known.get(device.uuid))]

    async def ask(device: wire.Device) -> None:
        group = device.group_name
        if group and group not in pushes:
            pushes[group] = await _pushes(api, Scope.of_group(group))
        pushed = {**pushes.get("", {}), **(pushes.get(group, {}) if group else {})}
        known[device.uuid] = await _ask(api, device, known.get(device.uuid), pushed)

    if asked:
        pushes[""] = await _pushes(api, Scope.fleet())
        try:
            await for_each(asked, ask, Pace(), api.counted)
        finally:
            # Reading a large Factory takes minutes: after an interruption the next run continues from here.
            _save(api, known)
    return by_date(
        [
            due(
                device.uuid,
                device.name or device.uuid,
                _exact(known[device.uuid].ended, issued.get(device.uuid)),
                registered=parse_time(device.change_meta.created_at) if device.change_meta else None,
                lifetime=lifetime,
                within=within,
                now=now,
            )
            for device in devices
        ]
    )


def _changed(device: wire.Device, answer: Answer | None) -> bool:
    return answer is None or answer.last_seen is None or answer.last_seen != parse_time(device.last_seen)


async def _ask(
    api: FactoryApi, device: wire.Device, answer: Answer | None, pushed: Mapping[str, datetime]
) -> Answer:
    """The device's last rotation that ended well. Updates that `answer` knows are not read again."""
    seen = parse_time(device.last_seen)
    updates = [update.correlation_id for update in await api.device_updates(device.uuid)]
    old = set(answer.updates) if answer else set()
    for rotation_id in updates:
        if answer is not None and rotation_id in old and answer.ended is not None:
            # Updates come newest first: this one and all older ones were read before.
            break
        progress = from_events(await events_of(api, device.uuid, rotation_id))
        if progress.phase is Phase.NONE or not progress.finalized:
            continue
        finals = [event.time for event in progress.events if event.step == LAST and event.success]
        ended = rotation_date(
            rotation_id,
            finalized=finals[-1] if finals else None,
            applied=await _applied(api, device, rotation_id),
            pushed=pushed.get(rotation_id),
            last_seen=seen,
        )
        if ended is not None:
            return Answer(seen, updates, ended)
    return Answer(seen, updates, answer.ended if answer else None)


async def _applied(api: FactoryApi, device: wire.Device, rotation_id: str) -> datetime | None:
    """When the device fetched an entry of its own with this id, by the server's clock."""
    log = await api.config(Scope.of_device(device.name, device.uuid)).log()
    times = [
        parse_time(config.applied_at)
        for config in log
        if config.applied_at
        and any(f.name == FILE_NAME and rotation_id_of(f.value) == rotation_id for f in config.files or [])
    ]
    return min(filter(None, times), default=None)


async def _pushes(api: FactoryApi, scope: Scope) -> dict[str, datetime]:
    """When each rotation in the scope's log was pushed, by its id; {} for a group that no longer exists."""
    try:
        rotations = in_log(await api.config(scope).log(), scope)
    except ApiError as error:
        if error.status != 404:
            raise
        return {}
    return {rotation.id: rotation.pushed_at for rotation in rotations if rotation.pushed_at is not None}


def _newest(issued: Sequence[Issued]) -> dict[str, Issued]:
    """The newest certificate of each device in the log, by uuid."""
    return {record.device: record for record in sorted(issued, key=lambda record: record.time)}


def _exact(ended: LastRotation | None, issued: Issued | None) -> LastRotation | None:
    """The rotation with the dates of the EST log, if the log has a certificate of the device."""
    at, not_after = (parse_time(issued.time), parse_time(issued.not_after)) if issued else (None, None)
    if at is None or not_after is None:
        return ended
    return LastRotation(ended.rotation_id if ended else "", at, Source.EST_LOG, not_after)


def _load(api: FactoryApi) -> dict[str, Answer]:
    with suppress(OSError, ValueError, msgspec.MsgspecError, RecursionError, MemoryError):
        path = _file(api)
        if path.is_file() and path.stat().st_size <= _LARGEST:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Answer])
    return {}


def _save(api: FactoryApi, answers: Mapping[str, Answer]) -> None:
    """Keep the answers. A folder that cannot be written is not an error: the file only saves work."""
    with suppress(OSError):
        path = _file(api)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, msgspec.json.encode(answers))


def _file(api: FactoryApi) -> Path:
    name = hashlib.sha256(f"{api.server}\0{api.factory}".encode()).hexdigest()[:32]
    return state_folder() / "due" / f"{name}.json"
