"""The operator API of a factory, as fioctl uses it: its calls, each a method."""

from collections.abc import AsyncIterator, Callable, Mapping
from urllib.parse import quote

from fioctl_rotate import wire
from fioctl_rotate.api.exchange import Exchange
from fioctl_rotate.api.peer import Peer
from fioctl_rotate.errors import UsageError, printable
from fioctl_rotate.rotation.entry import FILE_NAME, rotation_id_of
from fioctl_rotate.rotation.scope import Scope
from fioctl_rotate.seen import Seen

# A configuration request, as the model or as the body that was shown before it is sent.
ConfigBody = wire.ConfigRequest | Mapping[str, object]

# Called while many devices are read: how many were read, and how many there are (None: not known yet).
Counted = Callable[[int, int | None], None]

PAGE = 1000  # the largest page that `GET /ota/devices/` gives


class FactoryApi:
    """The operator API of one factory.

    Args:
        peer: the server.
        factory: the factory's name.
        announce: gets a line before each wait of more than 5 seconds.
        deadline: when the command must have ended, in seconds of `time.monotonic()`. No wait goes beyond it, also
            where the server asks for one.
        counted: called with the progress while many devices are read.
    """

    def __init__(
        self,
        peer: Peer,
        factory: str,
        *,
        announce: Callable[[str], None] = lambda _: None,
        deadline: float | None = None,
        counted: Counted = lambda _read, _all: None,
    ) -> None:
        self.factory = factory
        self.server = peer.name
        self.deadline = deadline
        self.counted = counted
        self.seen = Seen()
        self._exchange = Exchange(peer, announce=announce, deadline=deadline)

    @property
    def busy_answers(self) -> int:
        """How often the server has answered that it is busy (429, 503), also where a retry then succeeded."""
        return self._exchange.busy_answers

    # --- Certificates ---

    async def certs(self) -> wire.Certs:
        """The factory's certificates; all None where its PKI is not set up (206, or nulls)."""
        return await self._exchange.get(self._in_factory("certs/"), wire.Certs, empty=frozenset({206}))

    async def create_csrs(self, request: wire.CsrRequest) -> wire.Csrs:
        """Have the backend make keys, and get their CSRs."""
        return await self._exchange.send("POST", self._in_factory("certs/"), request, answer=wire.Csrs)

    async def patch_certs(self, certs: wire.CertsPatch) -> None:
        """Upload certificates."""
        await self._exchange.send("PATCH", self._in_factory("certs/"), certs)

    # --- Users and factories ---

    async def factories(self) -> list[wire.Factory]:
        """The factories that the token sees."""
        return await self._exchange.get("/ota/factories/", list[wire.Factory])

    async def users(self) -> list[wire.User]:
        """The factory's users."""
        return await self._exchange.get(self._in_factory("users/"), list[wire.User])

    async def user(self, user_id: str = "self") -> wire.User:
        """One user; `self` is the token's."""
        return await self._exchange.get(self._in_factory(f"users/{_segment(user_id)}/"), wire.User)

    # --- Configuration ---

    def config(self, scope: Scope) -> "ScopeConfig":
        """The configuration of a scope; a device's scope must have its `uuid`."""
        if scope.kind == "device":
            path = _of_device(scope.uuid or "", "config/")
            return ScopeConfig(self._exchange, path, self._by_uuid(), self.seen)
        path = self._in_group(scope.name, "config/") if scope.kind == "group" else self._in_factory("config/")
        return ScopeConfig(self._exchange, path, {}, self.seen)

    # --- Groups ---

    async def groups(self) -> list[wire.DeviceGroup]:
        """The factory's device groups."""
        groups = (await self._exchange.get(self._in_factory("device-groups/"), wire.DeviceGroupList)).groups
        self.seen.groups = [group.name for group in groups]
        return groups

    async def create_group(self, name: str, description: str | None = None) -> wire.DeviceGroup:
        """Make a device group."""
        body = {"name": name} | ({} if description is None else {"description": description})
        return await self._exchange.send(
            "POST", self._in_factory("device-groups/"), body, answer=wire.DeviceGroup
        )

    async def update_group(
        self, name: str, *, new_name: str | None = None, description: str | None = None
    ) -> None:
        """Rename a device group, or change its description."""
        body = {"name": new_name, "description": description}
        await self._exchange.send(
            "PATCH",
            self._in_group(name, ""),
            {key: value for key, value in body.items() if value is not None},
        )

    async def delete_group(self, name: str) -> None:
        """Delete a device group that has no devices."""
        await self._exchange.send("DELETE", self._in_group(name, ""))

    # --- Devices ---

    async def device(self, name: str, *, by_uuid: bool = False) -> wire.Device:
        """One device, by name or by uuid, with its public key and active configuration."""
        params = self._by_uuid() if by_uuid else {"factory": self.factory}
        device = await self._exchange.get(_of_device(name, ""), wire.Device, params)
        self.seen.add_devices([device.name])
        return device

    async def device_pages(
        self,
        *,
        filters: Mapping[str, str] | None = None,
        sortby: str | None = None,
        limit: int = PAGE,
    ) -> AsyncIterator[wire.DeviceList]:
        """Pages of the devices that match `filters`, by `sortby`: `[-]name`, `[-]last_seen`.

        `limit` is the size of a page, one of 10 20 30 40 50 100 200 500 1000.
        """
        params = {"factory": self.factory, **(filters or {}), "limit": str(limit)}
        if sortby is not None:
            params["sortby"] = sortby
        read = 0
        self.counted(read, None)
        async for page in self._exchange.pages("/ota/devices/", params, wire.DeviceList):
            read += len(page.devices)
            self.counted(read, page.total)
            self.seen.add_devices(device.name for device in page.devices)
            yield page

    async def device_page(
        self, filters: Mapping[str, str], *, sortby: str, page: int, limit: int
    ) -> wire.DeviceList:
        """One page of the devices that match `filters`; `limit` and `sortby` as in `device_pages`."""
        params = {"factory": self.factory, **filters, "limit": str(limit), "sortby": sortby}
        if page > 1:
            params["page"] = str(page)
        return await self._exchange.get("/ota/devices/", wire.DeviceList, params)

    async def devices(self, filters: Mapping[str, str] | None = None) -> list[wire.Device]:
        """All devices that match `filters`, by name, as the list shows them (without public key)."""
        pages = self.device_pages(filters=filters, sortby="name")
        return [device async for page in pages for device in page.devices]

    async def update_device(self, uuid: str, **changes: str) -> None:
        """Change a device: its `name`, its `owner`, its `group` ("" takes it out of its group)."""
        await self._exchange.send("PATCH", _of_device(uuid, ""), changes, params=self._by_uuid())

    async def delete_device(self, uuid: str) -> None:
        """Delete a device; its uuid is denied from then on."""
        await self._exchange.send("DELETE", _of_device(uuid, ""), params=self._by_uuid())

    async def allow_denied(self, uuid: str) -> None:
        """Take a uuid off the deny list."""
        await self._exchange.send("DELETE", self._in_factory(f"denied-devices/{_segment(uuid)}/"))

    async def denied_devices(self) -> list[wire.Device]:
        """The devices that were deleted and may not come back; mainly their uuids."""
        pages = self._exchange.pages(
            self._in_factory("denied-devices/"), {"limit": str(PAGE)}, wire.DeviceList
        )
        return [device async for page in pages for device in page.devices]

    async def device_count(self, filters: Mapping[str, str] | None = None) -> int:
        """How many devices match `filters`; reads one small page."""
        return (await self.device_page(filters or {}, sortby="name", page=1, limit=10)).total

    async def register_device(
        self, client_pem: str, *, name: str | None = None, group: str | None = None
    ) -> wire.Device:
        """Register the device that has the client certificate `client_pem`."""
        body = {"client.pem": client_pem, "name": name, "group": group}
        return await self._exchange.send(
            "PUT",
            "/ota/devices/",
            {key: value for key, value in body.items() if value is not None},
            params={"factory": self.factory},
            answer=wire.Device,
        )

    async def device_updates(self, uuid: str) -> list[wire.Update]:
        """The last updates of a device, rotations among them, newest first."""
        pages = self._exchange.pages(_of_device(uuid, "updates/"), self._by_uuid(), wire.UpdateList)
        return [update async for page in pages for update in page.updates]

    async def device_events(self, uuid: str, correlation_id: str) -> list[wire.Event]:
        """The events of one update of a device, in the order the API gives them."""
        path = _of_device(uuid, f"updates/{_segment(correlation_id)}/")
        return await self._exchange.get(path, list[wire.Event], self._by_uuid())

    # --- Underneath ---

    def _in_factory(self, path: str) -> str:
        return f"/ota/factories/{_segment(self.factory)}/{path}"

    def _in_group(self, group: str, path: str) -> str:
        return self._in_factory(f"device-groups/{_segment(group)}/{path}")

    def _by_uuid(self) -> dict[str, str]:
        return {"factory": self.factory, "by-uuid": "1"}


class ScopeConfig:
    """The configuration of one scope, under its path in the API. Made by `FactoryApi.config`."""

    def __init__(self, exchange: Exchange, path: str, params: dict[str, str], seen: Seen) -> None:
        self._exchange, self._path, self._params, self._seen = exchange, path, params, seen

    async def log(self, limit: int | None = None) -> list[wire.Config]:
        """Its log, newest first, at most `limit` entries."""
        log: list[wire.Config] = []
        async for page in self._exchange.pages(self._path, self._params, wire.ConfigList):
            log.extend(page.config)
            if limit is not None and len(log) >= limit:
                break
        for config in log:
            for file in config.files or ():
                if file.name == FILE_NAME:
                    self._seen.rotations[rotation_id_of(file.value)] = None
        return log[:limit]

    async def merge(self, body: ConfigBody) -> None:
        """Merge files into it, by their names."""
        await self._exchange.send("PATCH", self._path, body, params=self._params)

    async def replace(self, body: ConfigBody) -> None:
        """Replace all of it."""
        await self._exchange.send("POST", self._path, body, params=self._params)

    async def delete(self, file: str) -> None:
        """Delete a file of it."""
        await self._exchange.send("DELETE", f"{self._path}{_segment(file)}/", params=self._params)


def _segment(name: str) -> str:
    """`name` as one segment of a path. Raises UsageError for a name that would change the path."""
    if name in ("", ".", ".."):
        raise UsageError(f"`{name}` is not a valid name")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise UsageError(f"`{printable(name)}` is not a valid name: not UTF-8") from error


def _of_device(name: str, path: str) -> str:
    return f"/ota/devices/{_segment(name)}/{path}"
