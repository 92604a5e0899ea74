"""The commands under `keys ca` that replace what the root has signed: device CAs and the gateway's certificate."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import certificates, common
from fioctl_rotate.cli.common import Result, Table, YesOption, option
from fioctl_rotate.cli.keystore import DirectoryArgument, KeyOptions, prompter, with_keys
from fioctl_rotate.errors import UsageError
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.ca_removal import CutOff, Removal

CaFileOption = Annotated[
    list[Path], option("--ca-file FILE", "File of a device CA: a name in DIR, or a path (repeatable).")
]
CaSerialOption = Annotated[
    list[str], option("--ca-serial NUMBER", "Serial number of a device CA, in base 10 (repeatable).")
]
DryRunOption = Annotated[bool, option("--dry-run --dryrun", "Print the CRL and upload nothing.")]
PrettyOption = Annotated[bool, option("--pretty", "With --dry-run: readable text instead of PEM.")]
CutOffOption = Annotated[
    int | None, option("--cut-off N", "Number of devices that will be cut off [default: 0].", min=0)
]
EstLogOption = Annotated[
    Path | None, option("--est-log FILE", "Log of `est serve --log-format json`: says which CA signed.")
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `keys ca`."""
    example = "Example: fioctl-rotate keys ca"
    app.command("disable-device-ca", epilog=f"{example} disable-device-ca ./pki --ca-file local-ca.pem")(
        disable
    )
    app.command("revoke-device-ca", epilog=f"{example} revoke-device-ca ./pki --ca-serial 4711 --dry-run")(
        revoke
    )
    app.command("rotate-tls", epilog=f"{example} rotate-tls ./pki")(rotate_tls)
    app.command("update", epilog=f"{example} update device-cas.pem")(update)


@common.connected
@with_keys
async def disable(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    ca_file: CaFileOption = [],  # noqa: B006  typer copies it
    ca_serial: CaSerialOption = [],  # noqa: B006  typer copies it
    dry_run: DryRunOption = False,
    pretty: PrettyOption = False,
) -> Result:
    """Disable device CAs: they register no new devices; their present devices can still connect.

    This is the first step when a device CA is compromised. The root signs a CRL, which is uploaded.
    """
    from fioctl_rotate.ops.ca_removal import disable_device_cas, serial_numbers

    _require_dry_run(pretty=pretty, dry_run=dry_run)
    serials, pki = serial_numbers(ca_serial), keys.directory(directory)
    async with common.connect(flags) as api:
        done = await disable_device_cas(api, pki, ca_file, serials, dry_run=dry_run)
    return _removal(api, done, "disabled", dry_run=dry_run, pretty=pretty)


@common.connected
@with_keys
async def revoke(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    ca_file: CaFileOption = [],  # noqa: B006  typer copies it
    ca_serial: CaSerialOption = [],  # noqa: B006  typer copies it
    dry_run: DryRunOption = False,
    pretty: PrettyOption = False,
    cut_off: CutOffOption = None,
    est_log: EstLogOption = None,
) -> Result:
    """Revoke device CAs: devices with a certificate from them can no longer connect.

    A device counts as cut off unless its present certificate is known to come from a CA that stays. The Factory
    does not say which CA signed it; only --est-log does. If any device would be cut off, --cut-off must give the
    number of such devices, else nothing is done (exit code 5).
    """
    from fioctl_rotate.ops.ca_removal import Consent, revoke_device_cas, serial_numbers

    _require_dry_run(pretty=pretty, dry_run=dry_run)
    serials, pki = serial_numbers(ca_serial), keys.directory(directory)
    async with common.connect(flags) as api:
        done = await revoke_device_cas(
            api, pki, ca_file, serials, consent=Consent(cut_off, est_log), dry_run=dry_run
        )
    return _removal(api, done, "revoked", dry_run=dry_run, pretty=pretty)


@common.connected
@with_keys
async def rotate_tls(
    flags: Flags, keys: KeyOptions, directory: DirectoryArgument, yes: YesOption = False
) -> Result:
    """Give the Factory's device gateway a new TLS key and certificate, signed by the root.

    The names stay the same. The present tls-crt in DIR is kept as tls-crt.bak.
    """
    from fioctl_rotate.ops.certificate_view import view
    from fioctl_rotate.ops.signing import rotate_tls as rotate

    pki = keys.directory(directory)
    async with common.connect(flags) as api:
        rotated = view("the gateway TLS certificate", await rotate(api, pki, prompter=prompter(yes=yes)))
    return Result(
        {"factory": api.factory, "server": api.server, "tls": rotated.document},
        [f"gateway TLS certificate: serial {rotated.document['serial']}, {', '.join(rotated.dns_names)}"],
        warnings=certificates.warnings([rotated]),
    )


@common.connected
async def update(
    flags: Flags,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="All device CAs, PEM.", show_default=False)],
    cut_off: CutOffOption = None,
    est_log: EstLogOption = None,
) -> Result:
    """Replace the Factory's device CAs with those in FILE, for example to bring back a revoked CA.

    The Factory's root must have signed each of them. A CA that is not in FILE is removed, and its devices count as
    cut off, as with `keys ca revoke-device-ca`.
    """
    from fioctl_rotate.ops.ca_removal import Consent, update_device_cas
    from fioctl_rotate.ops.certificate_view import view

    async with common.connect(flags) as api:
        done = await update_device_cas(api, file, consent=Consent(cut_off, est_log))
    added, removed = ([view("device CA", ca) for ca in cas] for cas in (done.added, done.removed))
    document = {
        "factory": api.factory,
        "server": api.server,
        "added": [ca.document for ca in added],
        "removed": [ca.document for ca in removed],
        "cut-off": [vars(device) for device in done.cut_off],
    }
    lines = [f"added: {ca.document['subject']}, serial {ca.document['serial']}" for ca in added]
    lines += [f"removed: {ca.document['subject']}, serial {ca.document['serial']}" for ca in removed]
    return Result(document, lines or ["nothing changed"])


def _require_dry_run(*, pretty: bool, dry_run: bool) -> None:
    if pretty and not dry_run:
        raise UsageError("--pretty needs --dry-run")


def _removal(api: "FactoryApi", done: "Removal", state: str, *, dry_run: bool, pretty: bool) -> Result:
    from fioctl_rotate.ops.certificate_view import crl_text, view

    cas = [view("device CA", ca) for ca in done.removed]
    document = {
        "factory": api.factory,
        "server": api.server,
        "dry-run": dry_run,
        state: [ca.document for ca in cas],
        "cut-off": [vars(device) for device in done.cut_off],
        "crl": done.crl,
    }
    if not dry_run:
        lines = [f"{state}: {ca.document['subject']}, serial {ca.document['serial-decimal']}" for ca in cas]
        return Result(document, [*lines, *_cut_off_table(done.cut_off)])
    notes = ["nothing was uploaded"]
    if state == "revoked":
        names = ", ".join(device.name for device in done.cut_off)
        notes.append(f"devices that may be cut off: {len(done.cut_off)}{': ' * bool(names)}{names}")
    return Result(document, [(crl_text(done.crl) if pretty else done.crl).strip()], notes)


def _cut_off_table(cut_off: "Sequence[CutOff]") -> Iterator[Table]:
    if cut_off:
        yield Table(
            ["MAY BE CUT OFF", "UUID", "ISSUER"],
            [[device.name, device.uuid, device.issuer] for device in cut_off],
        )
