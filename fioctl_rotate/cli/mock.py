"""`mock`: a mocked Factory to rehearse on."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from fioctl_rotate.cli import common, mock_devices
from fioctl_rotate.cli.common import Format, FormatOption, OptionalGroup, Result, note, option, warn
from fioctl_rotate.cli.mock_devices import DirectoryArgument, FactoryOption
from fioctl_rotate.errors import printable
from fioctl_rotate.rotation.entry import DEFAULT_PORT
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.ops.mock import FactoryRecord, LogRecord, MadeFactory

app = common.group("A mocked Factory to rehearse on.")
app.command("devices", epilog=mock_devices.EXAMPLE)(mock_devices.devices)


PortOption = Annotated[
    int, option("--port PORT", "Port of the operator API; 0: any free one.", min=0, max=65535)
]
EstPortOption = Annotated[int, option("--est-port PORT", "Port of the EST server.", min=0, max=65535)]
GatewayPortOption = Annotated[
    int, option("--gateway-port PORT", "Port of the device gateway.", min=0, max=65535)
]


@app.command(epilog="Example: fioctl-rotate mock init ./acme --factory acme --group field --devices 5")
async def init(
    directory: DirectoryArgument,
    factory: Annotated[str, option("-f --factory NAME", "Factory name.")],
    group: OptionalGroup = None,
    devices: Annotated[int, option("--devices N", "Make and register N devices.", min=0)] = 0,
    bare: Annotated[
        bool, option("--bare", "Make no PKI, to rehearse `keys ca create` and `est authorize`.")
    ] = False,
    port: PortOption = 8442,
    est_port: EstPortOption = 8443,
    gateway_port: GatewayPortOption = 8444,
    est_name: Annotated[str, option("--est-name HOST", "DNS name of the EST server.")] = "localhost",
    gateway_name: Annotated[
        str, option("--gateway-name HOST", "DNS name of the device gateway.")
    ] = "localhost",
) -> Result:
    """Make a mocked Factory in DIR, ready to rotate: its PKI in DIR/pki, EST authorized, devices registered.

    DIR must be new or empty, or hold other mocked Factories. An init that was interrupted continues when it is run
    again. With -g, the devices are in that new group. With `--mock DIR` any command uses this Factory, without a
    server.
    """
    from fioctl_rotate.ops import mock

    addresses = mock.Addresses(
        api_port=port,
        gateway_port=gateway_port,
        est_port=est_port,
        gateway_name=gateway_name,
        est_name=est_name,
    )
    made = await mock.init(
        directory, factory, addresses=addresses, group=group, devices=devices, bare=bare, say=note
    )
    return Result(
        {
            "factory": factory,
            "directory": str(directory),
            "pki": str(made.pki) if made.pki else None,
            "group": made.group,
            "devices": _devices(made),
        },
        [f"made the mocked Factory {factory} in {directory}"],
        [f"next: {_next_step(directory, made)}"],
    )


def _next_step(directory: Path, made: "MadeFactory") -> str:
    name = made.factory.name
    if made.pki is None:
        return _command("keys", "ca", "create", directory / "pki", *_factory_flags(directory, name))
    if made.group is None:
        return _command("config", "device-group", "create", "field", *_factory_flags(directory, name))
    port = () if made.factory.est_port == DEFAULT_PORT else ("-p", made.factory.est_port)
    rotate = ("config", "rotate-certs", "-g", made.group, "-r", "rehearsal", *port, "--dryrun")
    return _command(*rotate, *_factory_flags(directory, name))


def _factory_flags(directory: Path, factory: str) -> tuple[object, ...]:
    return "--factory", factory, "--mock", directory


def _command(*words: object) -> str:
    return shlex.join(["fioctl-rotate", *map(str, words)])


def _devices(made: "MadeFactory") -> list[dict[str, str]]:
    return [{"uuid": uuid, "name": name} for uuid, name in made.devices.items()]


@app.command(epilog="Example: fioctl-rotate mock clone ./copy -f acme -g field")
@common.connected
async def clone(
    directory: DirectoryArgument,
    flags: Flags,
    groups: Annotated[
        list[str] | None, option("-g --group GROUP", "Clone only this group's devices (repeatable).")
    ] = None,
    clock_offset: Annotated[
        str | None,
        option("--clock-offset DURATION[:PERCENT]", "How far device clocks are ahead; -DURATION: behind."),
    ] = None,
    check_in: Annotated[
        float | None,
        common.duration_option(
            "--check-in", "Time between two check-ins [default: as in `mock devices`, `apply`].", shortest=1.0
        ),
    ] = None,
    port: PortOption = 8442,
    est_port: EstPortOption = 8443,
    gateway_port: GatewayPortOption = 8444,
) -> Result:
    """Make a mocked Factory of the same shape as yours in DIR, to rehearse on: groups, devices, rotations.

    Your Factory is read, and never changed. Of its configurations only the rotation entries are copied, each with
    the clone's own EST server; keys and certificates are new. Devices that are offline stay off in `mock devices`,
    and devices with an old LmP do not rotate. Completed rotations are not repeated. A clone that was interrupted
    continues when it is run again.
    """
    from fioctl_rotate.ops import mock
    from fioctl_rotate.ops.clone import clone as make_clone
    from fioctl_rotate.rotation.faults import parse_clock_offset

    addresses = mock.Addresses(api_port=port, gateway_port=gateway_port, est_port=est_port)
    clocks = parse_clock_offset(clock_offset) if clock_offset else None
    async with common.connect(flags) as api:
        cloned = await make_clone(
            api,
            directory,
            groups=groups or (),
            addresses=addresses,
            clocks=clocks,
            check_in=int(check_in) if check_in else None,
            say=note,
        )
        server = api.server
    name = cloned.factory.name
    counts = {
        "devices": cloned.devices,
        "offline": cloned.offline,
        "unsupported": cloned.unsupported,
        "shadowed": cloned.shadowed,
        "completed": cloned.completed,
    }
    shown = ", ".join(f"{count} {what}" for what, count in counts.items())
    return Result(
        {"factory": name, "directory": str(directory), "server": server, "groups": cloned.groups, **counts},
        [f"cloned factory {name} of {server} into {directory}: {len(cloned.groups)} groups, {shown}"],
        notes=[*cloned.notes, f"next: {_command('mock', 'serve', directory)}"],
    )


@app.command(
    "add-devices", epilog="Example: fioctl-rotate mock add-devices ./acme -g field --devices 4 --slots 1"
)
async def add_devices(
    directory: DirectoryArgument,
    devices: Annotated[int, option("--devices N", "Make and register N devices.", min=1)],
    slots: Annotated[
        int, option("--slots N", "How many of them keep their key in PKCS#11 slots.", min=0)
    ] = 0,
    lmp: Annotated[
        int, option("--lmp N", "Their LmP version; before 90 a device does not rotate.", min=1, max=999)
    ] = 97,
    old_est_client: Annotated[
        bool,
        option(
            "--old-est-client", "They accept only status 201 from an EST server, as fioconfig before 2026-02."
        ),
    ] = False,
    clock_offset: Annotated[
        float,
        common.duration_option(
            "--clock-offset", "How far their clocks are ahead; -DURATION: behind.", signed=True
        ),
    ] = 0.0,
    group: OptionalGroup = None,
    factory: FactoryOption = None,
) -> Result:
    """Make more devices in a mocked Factory, their certificates signed by the local CA in DIR/pki.

    With -g, they are put into that group.
    """
    from fioctl_rotate.ops import mock

    def kind(number: int) -> mock.Kind:
        return mock.Kind(
            lmp=lmp,
            strict_est=old_est_client,
            slots=number > devices - slots,
            clock_offset=int(clock_offset),
        )

    made = await mock.add_devices(directory, factory, group=group, devices=devices, kinds=kind, say=note)
    lines = [f"{name}  {uuid}" for uuid, name in made.devices.items()]
    return Result({"devices": _devices(made)}, lines)


@app.command(epilog="Example: fioctl-rotate mock serve ./acme")
async def serve(
    directory: DirectoryArgument,
    factory: FactoryOption = None,
    host: Annotated[str, option("--host ADDRESS", "Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, option("--port PORT", "Port of the operator API, also for later runs.", min=0, max=65535)
    ] = None,
    est_port: Annotated[
        int | None,
        option("--est-port PORT", "Port of the EST server, also for later runs.", min=0, max=65535),
    ] = None,
    gateway_port: Annotated[
        int | None,
        option("--gateway-port PORT", "Port of the device gateway, also for later runs.", min=0, max=65535),
    ] = None,
    est_fault: Annotated[
        Literal["stop", "foreign-ca", "404"] | None,
        option(
            "--est-fault",
            "EST fault: nothing listens; a CA that no gateway trusts; status 404 for every request.",
        ),
    ] = None,
    rfc7030: Annotated[
        bool,
        option("--rfc7030", "EST with status 200 as in RFC 7030; devices before 2026-02 accept only 201."),
    ] = False,
    verbose: Annotated[
        bool, option("-v --verbose", "Show each request to the EST server, and each refused connection.")
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Serve a mocked Factory until Ctrl-C: operator API, device gateway and EST server.

    Ports are those of `mock init` unless given. Writes DIR/fioctl.yaml, a settings file for the real fioctl
    (DIR/fioctl-NAME.yaml for a Factory that was not the first).
    Certificates that are made while it runs are used without a restart.
    """
    from fioctl_rotate.ops import mock
    from fioctl_rotate.serving import until_interrupted

    def log(record: "LogRecord") -> None:
        if verbose:
            note(f"EST {record.operation} {record.device or '-'}: {record.status} {record.outcome}")

    def refused(server: str, peer: str, reason: str) -> None:
        if verbose:
            note(printable(f"{server} refused {peer}: {reason}"))

    if est_fault is not None:
        note(f"the EST server has a fault on purpose: {est_fault}")
    ports = mock.Ports(api=port, gateway=gateway_port, est=est_port)
    serving = mock.Serving(
        host, ports, log=log, complain=warn, refused=refused, est_fault=est_fault, rfc7030=rfc7030
    )
    async with mock.serve(directory, factory, serving) as served:
        await until_interrupted(lambda: _announce(directory.absolute(), served, format))


def _announce(directory: Path, factory: "FactoryRecord", format: Format) -> None:
    from fioctl_rotate.ops.mock import fioctl_config, token_file

    document = {
        "factory": factory.name,
        "server": factory.api_url,
        "gateway": factory.gateway_url,
        "est": f"https://{factory.est_name}:{factory.est_port}/.well-known/est",
        "token-file": str(token_file(directory, factory.name)),
        "fioctl-config": str(fioctl_config(directory, factory.name)),
    }
    Result(document, _served_lines(directory, factory, document)).show(format)
    sys.stdout.flush()


def _served_lines(directory: Path, factory: "FactoryRecord", document: dict[str, str]) -> Iterator[str]:
    def missing(certificate: str | None, *command: str) -> str:
        if certificate:
            return ""
        maker = _command(*command, directory / "pki", *_factory_flags(directory, factory.name))
        return f"  (no certificate yet: `{maker}` makes it)"

    yield f"serving the mocked Factory {factory.name}; Ctrl-C ends it"
    yield f"  operator API    {document['server']}"
    yield f"  device gateway  {document['gateway']}{missing(factory.tls_crt, 'keys', 'ca', 'create')}"
    yield f"  EST server      {document['est']}{missing(factory.est_tls_crt, 'est', 'authorize')}"
    yield "to reach it, paste in another terminal; the real fioctl takes it too:"
    yield f"  export FIOCTL_ROTATE_SERVER={factory.api_url} FIOCTL_FACTORY={factory.name}"
    yield f"  export FIOCTL_TOKEN=$(cat {shlex.quote(document['token-file'])})"
    yield f"  export FIOCTL_CONFIG={shlex.quote(document['fioctl-config'])}"


@app.command(epilog="Example: fioctl-rotate mock events ./acme --format json")
def events(directory: DirectoryArgument, factory: FactoryOption = None) -> Result:
    """Show the Factory's event queue, oldest first: keys that changed, configurations that were fetched."""
    import datetime

    from fioctl_rotate.ops import mock

    found = mock.queue(directory, factory)
    lines = (
        f"{datetime.datetime.fromtimestamp(body['Time'], datetime.UTC).isoformat()}  {kind}  {body['Uuid']}"
        for kind, body in found
    )
    return Result({"events": [{"event-type": kind, "data": body} for kind, body in found]}, lines)
