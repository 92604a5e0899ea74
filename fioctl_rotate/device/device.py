"""A device as fioconfig runs it: it checks in, writes what changed, and rotates its certificate.

Its directory holds everything: sota.toml, keys and certificates, the stored configuration, a rotation's state, and
`secrets/` with the configuration's files. A file that it writes is whole after a kill. It is not synced to the
disk: a simulation need not survive a power cut. Source: fioconfig's app.go, state.go, rotate.go.
"""

import asyncio
import contextlib
import datetime
import email.utils
import enum
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fioctl_rotate.clock import Clock, utc_now
from fioctl_rotate.device import renew_cert, state_file
from fioctl_rotate.device.connection import Connection, Sleep, refusal
from fioctl_rotate.device.handler import FORCE_EXIT, HandlerExit, read_entry
from fioctl_rotate.device.identity import Sota, load_identity
from fioctl_rotate.device.renew_cert import Runtime
from fioctl_rotate.device.stored_config import (
    CONFIG_FILE,
    GatewayConfig,
    decode_config,
    decrypted,
    read_config,
    store_config,
)
from fioctl_rotate.errors import Error, message_of
from fioctl_rotate.files import write_atomic
from fioctl_rotate.http_date import parse_http_date
from fioctl_rotate.rotation.entry import HANDLER
from fioctl_rotate.toml import read_toml

SECRETS = "secrets"

FIRST_ROTATING_LMP = 90
"""Earlier ones have no handler for rotations."""
FIRST_V3_LMP = 97
"""From this one on fioconfig calls itself fioconfig-client/3."""

Observe = Callable[[str, str, str | None], None]
"""Called with a device's name, an event's type and its error text (None: success)."""

RequestFailed = Callable[[str, str], None]
"""Called with a device's name and why a request failed, before the device retries it."""


class StartOutcome(enum.Enum):
    """How a start of fioconfig ended. After ROTATED fioconfig restarts itself and checks in again at once."""

    UNCHANGED = "unchanged"
    CHANGED = "changed"
    ROTATED = "rotated"


class Device:
    """A device in its directory, which is named by its UUID.

    `clock` returns aware UTC time; the device's own clock may be ahead of it. `sleep` waits between retries. `fail`
    is the step of `rotation.progress.STEPS` that is made to fail. Each step begins after `pause` seconds, so that a
    person can follow.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock = utc_now,
        sleep: Sleep = asyncio.sleep,
        observe: Observe = lambda _name, _event, _error: None,
        problem: RequestFailed = lambda _name, _message: None,
        fail: str | None = None,
        pause: float = 0.0,
    ) -> None:
        self.directory = directory
        self.fail = fail
        self._clock = clock
        self._sleep = sleep
        self._observe = observe
        self._problem = problem
        self._pause = pause

    @property
    def uuid(self) -> str:
        """The device's UUID."""
        return self.directory.name

    async def check_in(self) -> StartOutcome:
        """One start of fioconfig and its first check-in: an unfinished rotation is resumed before anything else.

        Raises RotationFailed where a rotation's step fails, Error where the check-in fails or the directory is
        damaged. The next start resumes a failed rotation, so with a wrong EST URL a device never checks in again.
        """
        with self._disk():
            runtime = self._start()
            unfinished = state_file.load(self.directory)
            if unfinished is not None:
                await renew_cert.resume(runtime, unfinished)
                return StartOutcome.ROTATED
            return await self._fetch(runtime)

    async def extract(self) -> StartOutcome:
        """Early at boot: finish a Finalize that was under way, write the stored files again (fioconfig: extract).

        LmP keeps the files only in memory. So after a boot each of them counts as changed, and its handler runs: by
        the stored entry of an older rotation the device rotates again. Raises as `check_in` does.
        """
        with self._disk():
            runtime = self._start()
            unfinished = state_file.load(self.directory)
            if unfinished is not None:
                renew_cert.finish_offline(runtime, unfinished)
                runtime = self._start()
            config = decrypted(self._stored() or {}, runtime.identity.key)
            return StartOutcome.ROTATED if await self._write(runtime, config, {}) else StartOutcome.UNCHANGED

    async def reboot(self) -> StartOutcome:
        """Power off and on: the files of the configuration are gone, and `extract` writes them again."""
        with self._disk():
            if (self.directory / SECRETS).exists():
                shutil.rmtree(self.directory / SECRETS)
            (self.directory / SECRETS).mkdir()
        return await self.extract()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Raise Error for an OSError, such as a full disk, or a directory where a file should be."""
        try:
            yield
        except OSError as error:
            where = "" if error.filename else f"{self.directory}: "
            raise Error(f"{where}{message_of(error)}") from error

    def _start(self) -> Runtime:
        sota = Sota(self.directory / "sota.toml")
        identity = load_identity(sota)
        offset = datetime.timedelta(seconds=sota.number("simulation.clock_offset", 0))
        lmp = sota.number("simulation.lmp", FIRST_V3_LMP)
        connection = Connection(
            identity,
            Path(sota.text("import.tls_cacert_path")),
            user_agent=f"fioconfig-client/{3 if lmp >= FIRST_V3_LMP else 2}",
            sleep=self._sleep,
            failed=lambda reason: self._problem(self.uuid, reason),
        )
        target_name, target_version = _current_target(self.directory)
        return Runtime(
            storage=self.directory,
            sota=sota,
            identity=identity,
            connection=connection,
            clock=lambda: self._clock() + offset,
            strict_est=bool(sota.number("simulation.strict_est", 0)),
            target_name=target_name,
            target_version=target_version,
            pause=lambda: self._sleep(self._pause) if self._pause else asyncio.sleep(0),
            notify=lambda event, error: self._observe(self.uuid, event, error),
            fail=self.fail,
        )

    async def _fetch(self, runtime: Runtime) -> StartOutcome:
        previous = self._stored()
        headers = {}
        if previous is not None:
            headers["If-Modified-Since"] = _rfc1123((self.directory / CONFIG_FILE).stat().st_mtime)
        response = await runtime.connection.request("GET", f"{runtime.gateway}/config", headers=headers)
        if response.status_code in (204, 304):
            return StartOutcome.UNCHANGED
        if response.status_code != 200:
            raise refusal(response)
        config = decrypted(decode_config(response.content), runtime.identity.key)
        if await self._write(runtime, config, previous or {}):
            return StartOutcome.ROTATED
        modified = parse_http_date(response.headers.get("date", "")) or runtime.clock()
        store_config(self.directory, response.content, modified)
        return StartOutcome.CHANGED

    async def _write(self, runtime: Runtime, config: GatewayConfig, previous: GatewayConfig) -> bool:
        """Write changed files, delete removed ones. True where a rotation ended it; then do not store `config`."""
        for name, file in config.items():
            if _write_if_changed(self._secret(name), file.value) and await self._on_changed(
                runtime, name, file.on_changed
            ):
                return True
        for name in previous.keys() - config.keys():
            self._secret(name).unlink(missing_ok=True)
            if await self._on_changed(runtime, name, previous[name].on_changed):
                return True
        _remove_empty_directories(self.directory / SECRETS)
        return False

    async def _on_changed(self, runtime: Runtime, name: str, command: list[str] | None) -> bool:
        """Run the file's handler. True where it rotated, so that fioconfig restarts itself."""
        if not command or command[0] != HANDLER:
            return False
        if runtime.sota.number("simulation.lmp", FIRST_V3_LMP) < FIRST_ROTATING_LMP:
            return False
        try:
            arguments = read_entry(self._secret(name).read_text("utf-8"), self.directory)
        except FileNotFoundError:
            return False
        except HandlerExit as ended:
            if ended.status == FORCE_EXIT:
                raise
            return False
        if arguments is None:
            return False
        await renew_cert.begin(runtime, arguments)
        return True

    def _stored(self) -> GatewayConfig | None:
        """The stored configuration as it is, values encrypted; None where there is none that can be read."""
        data = read_config(self.directory)
        try:
            return None if data is None else decode_config(data)
        except Error:
            return None

    def _secret(self, name: str) -> Path:
        """Where a file of the configuration goes. Raises Error for a name that leads out of the directory."""
        base = (self.directory / SECRETS).resolve()
        path = (base / name).resolve()
        if base not in path.parents:
            raise Error(f"the configuration has a file {name!r}, which leads out of the secrets directory")
        return path


def _write_if_changed(path: Path, value: str) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = value.encode()
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    write_atomic(path, data, 0o640, sync=False)
    return True


def _remove_empty_directories(directory: Path) -> None:
    for path, _, _ in os.walk(directory, topdown=False):
        if Path(path) != directory and not any(Path(path).iterdir()):
            Path(path).rmdir()


def _rfc1123(timestamp: float) -> str:
    """The time as Go's RFC 1123 in UTC writes it: `UTC`, not `GMT`."""
    return email.utils.formatdate(int(timestamp), usegmt=True).replace("GMT", "UTC")


def _current_target(storage: Path) -> tuple[str, str]:
    """Name and version of the running target; `""` and `"0"` where the file cannot be read (fioconfig)."""
    try:
        values = read_toml(storage / "current-target", "the device's")
        return str(values["TARGET_NAME"]), str(int(str(values["CUSTOM_VERSION"])))
    except (Error, ValueError, KeyError):
        return "", "0"
