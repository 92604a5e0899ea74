"""`mock`: a mocked Factory to rehearse on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import mock_devices
from fioctl_rotate.cli.common import Format, FormatOption, emit, emit_json, group, note, run

if TYPE_CHECKING:
    from fioctl_rotate.est.server import LogRecord
    from fioctl_rotate.mock.store.accounts import FactoryRecord

app = group("A mocked Factory to rehearse on.")
app.command("devices", epilog=mock_devices.EXAMPLE)(mock_devices.devices)

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory that holds the mocked Factory.")
]
FactoryOption = Annotated[
    str | None, typer.Option("-f", "--factory", metavar="NAME", help="Factory; the first one unless given.")
]
GroupNameOption = Annotated[
    str | None,
    typer.Option("-g", "--group", metavar="GROUP", help="Make a device group, and put the devices into it."),
]


@app.command(epilog="Example: fioctl-rotate mock init ./acme --factory acme --group field --devices 5")
def init(
    directory: DirectoryArgument,
    factory: Annotated[str, typer.Option("-f", "--factory", metavar="NAME", help="Name of the Factory.")],
    group: GroupNameOption = None,
    devices: Annotated[
        int, typer.Option("--devices", metavar="N", min=0, help="Make and register N devices.")
    ] = 0,
    bare: Annotated[
        bool,
        typer.Option(
            "--bare", help="Set up nothing, to rehearse the ceremonies: `keys ca create` comes next."
        ),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of the operator API; 0: any free one.")
    ] = 8442,
    est_port: Annotated[
        int, typer.Option("--est-port", min=0, max=65535, help="Port of the EST server.")
    ] = 8443,
    gateway_port: Annotated[
        int, typer.Option("--gateway-port", min=0, max=65535, help="Port of the device gateway.")
    ] = 8444,
    est_name: Annotated[
        str, typer.Option("--est-name", metavar="HOST", help="DNS name of the EST server.")
    ] = "localhost",
    gateway_name: Annotated[
        str, typer.Option("--gateway-name", metavar="HOST", help="DNS name of the device gateway.")
    ] = "localhost",
    format: FormatOption = Format.TEXT,
) -> None:
    """Make a mocked Factory in DIR, ready to rotate: its PKI in DIR/pki, EST authorized, devices registered.

    A directory may hold several Factories. `--mock DIR` on any command talks to it, with no server to start.
    """
    from fioctl_rotate.mock.new_factory import Addresses
    from fioctl_rotate.ops import mock

    addresses = Addresses(
        api_port=port,
        gateway_port=gateway_port,
        est_port=est_port,
        gateway_name=gateway_name,
        est_name=est_name,
    )
    made = run(
        mock.init(directory, factory, addresses=addresses, group=group, devices=devices, bare=bare, tell=note)
    )
    if format is Format.JSON:
        emit_json(
            {
                "factory": factory,
                "directory": str(directory),
                "pki": str(made.pki) if made.pki else None,
                "group": made.group,
                "devices": [{"uuid": uuid, "name": name} for uuid, name in made.devices.items()],
            }
        )
        return
    emit(f"made the mocked Factory {factory} in {directory}")
    if made.pki is None:
        note(f"next: fioctl-rotate keys ca create {directory}/pki --factory {factory} --mock {directory}")
    else:
        target = f"-g {group}" if group else "-g GROUP"
        note(
            f"next: fioctl-rotate config rotate-certs {target} -r rehearsal --dryrun"
            f" --factory {factory} --mock {directory}"
        )


@app.command(
    "add-devices", epilog="Example: fioctl-rotate mock add-devices ./acme -g field --devices 4 --slots 1"
)
def add_devices(
    directory: DirectoryArgument,
    devices: Annotated[
        int, typer.Option("--devices", metavar="N", min=1, help="Make and register N devices.")
    ],
    slots: Annotated[
        int,
        typer.Option("--slots", metavar="N", min=0, help="How many of them keep their key in PKCS#11 slots."),
    ] = 0,
    group: Annotated[
        str | None, typer.Option("-g", "--group", metavar="GROUP", help="Put them into this device group.")
    ] = None,
    factory: FactoryOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Make more devices in a mocked Factory, their certificates signed by the local CA in DIR/pki."""
    from fioctl_rotate.device.setup import Kind
    from fioctl_rotate.ops import mock

    made = run(
        mock.add_devices(
            directory,
            factory,
            group=group,
            devices=devices,
            kinds=lambda number: Kind(slots=number > devices - slots),
            tell=note,
        )
    )
    if format is Format.JSON:
        emit_json({"devices": [{"uuid": uuid, "name": name} for uuid, name in made.devices.items()]})
    for uuid, name in made.devices.items() if format is Format.TEXT else ():
        emit(f"{name}  {uuid}")


@app.command(epilog="Example: fioctl-rotate mock serve ./acme")
def serve(
    directory: DirectoryArgument,
    factory: FactoryOption = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port of the operator API, from now on.")
    ] = None,
    est_port: Annotated[
        int | None, typer.Option("--est-port", min=0, max=65535, help="Port of the EST server, from now on.")
    ] = None,
    gateway_port: Annotated[
        int | None,
        typer.Option("--gateway-port", min=0, max=65535, help="Port of the device gateway, from now on."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Show each request to the EST server.")
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Serve a mocked Factory until Ctrl-C: operator API, device gateway and EST server.

    Ports are those of `mock init` unless given. Writes DIR/fioctl.yaml, with which the real fioctl reaches it
    (DIR/fioctl-NAME.yaml for a Factory that was not the first).
    Certificates that are made while it runs are used without a restart.
    """
    from fioctl_rotate.mock.mock_server import Ports
    from fioctl_rotate.ops import mock
    from fioctl_rotate.serving import until_interrupted

    def log(record: "LogRecord") -> None:
        note(f"EST {record.operation} {record.device or '-'}: {record.status} {record.outcome}")

    async def work() -> None:
        ports = Ports(api=port, gateway=gateway_port, est=est_port)
        async with mock.serve(
            directory, factory, host=host, ports=ports, log=log if verbose else lambda _record: None
        ) as served:
            await until_interrupted(lambda: _announce(directory.absolute(), served, format))

    run(work())


@app.command(epilog="Example: fioctl-rotate mock events ./acme --format json")
def events(
    directory: DirectoryArgument,
    factory: FactoryOption = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the Factory's event queue, oldest first: keys that changed, configurations that were fetched."""
    import datetime

    from fioctl_rotate.ops import mock

    found = mock.queue(directory, factory)
    if format is Format.JSON:
        emit_json({"events": [{"event-type": kind, "data": body} for kind, body in found]})
        return
    for kind, body in found:
        time = datetime.datetime.fromtimestamp(body["Time"], datetime.UTC)
        emit(f"{time.isoformat()}  {kind}  {body['Uuid']}")


def _announce(directory: Path, factory: "FactoryRecord", format: Format) -> None:
    import sys

    from fioctl_rotate.mock.new_factory import token_file
    from fioctl_rotate.ops.mock import fioctl_config

    est = f"https://{factory.est_name}:{factory.est_port}/.well-known/est"
    token, config = token_file(directory, factory.name), fioctl_config(directory, factory.name)
    if format is Format.JSON:
        emit_json(
            {
                "factory": factory.name,
                "server": factory.api_url,
                "gateway": factory.gateway_url,
                "est": est,
                "token-file": str(token),
                "fioctl-config": str(config),
            }
        )
    else:
        missing = "  (no certificate yet: fioctl-rotate {})"
        emit(f"serving the mocked Factory {factory.name}; Ctrl-C ends it")
        emit(f"  operator API    {factory.api_url}")
        emit(
            f"  device gateway  {factory.gateway_url}"
            + ("" if factory.tls_crt else missing.format("keys ca create"))
        )
        emit(f"  EST server      {est}" + ("" if factory.est_tls_crt else missing.format("est authorize")))
        emit("to reach it, paste in another terminal, for fioctl-rotate and for the real fioctl:")
        emit(f"  export FIOCTL_ROTATE_SERVER={factory.api_url} FIOCTL_FACTORY={factory.name}")
        emit(f"  export FIOCTL_TOKEN=$(cat '{token}')")
        emit(f"  export FIOCTL_CONFIG='{config}'")
    sys.stdout.flush()
