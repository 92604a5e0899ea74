"""`keys`: the Factory's root and what it signs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import certificates, common, keys_ca, keys_est
from fioctl_rotate.cli.common import Result, YesOption, option
from fioctl_rotate.cli.keystore import DirectoryArgument, GoBooleans, KeyOptions, prompter, with_keys
from fioctl_rotate.cli.out_files import SummaryOption, summarize_checks
from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.ops.certificate_view import CertificateView

app = common.group("The Factory's root key and certificates.")
ca_app = common.group("The Factory's root and the CAs below it.")
est_app = common.group("The certificate of the Factory's EST server.")
app.add_typer(ca_app, name="ca")
app.add_typer(est_app, name="est")
keys_est.add_commands(est_app, "keys est")


@ca_app.command("create", cls=GoBooleans, epilog="Example: fioctl-rotate keys ca create ./pki --no-local-ca")
@common.connected
@with_keys
async def create(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    online_ca: Annotated[
        bool, option("--online-ca/--no-online-ca", "A device CA of the service, for lmp-device-register.")
    ] = True,
    local_ca: Annotated[bool, option("--local-ca/--no-local-ca", "A device CA of your own, in DIR.")] = True,
    yes: YesOption = False,
) -> Result:
    """Set up the Factory's PKI: its root, the gateway's TLS certificate, and device CAs. This can be done once.

    Makes DIR if it is missing, and factory_ca.key and factory_ca.pem in it. A root that exists is used instead: one
    that openssl made as the manual says, or a key with the label root-ca in an HSM. Keep factory_ca.key offline:
    without it no certificate of the Factory can ever be replaced. A run that was interrupted can be repeated, and
    ends with the same root.
    """
    pki = keys.directory(directory)
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.ceremony import create_pki
        from fioctl_rotate.ops.certificate_view import view

        made = await create_pki(api, pki, online_ca=online_ca, local_ca=local_ca, prompter=prompter(yes=yes))
    document = {
        "factory": api.factory,
        "server": api.server,
        "directory": str(directory),
        "created": made.created,
        "root": view("root", made.root).document,
        "tls": view("gateway TLS", made.gateway_tls).document,
        "device-cas": [view("device CA", ca).document for ca in made.device_cas],
    }
    state = "set up" if made.created else "there already"
    return Result(
        document,
        [f"PKI of {api.factory} on {api.server}: {state}, {len(made.device_cas)} device CA(s)"],
        [f"keep {directory} offline; `fioctl-rotate est authorize {quote(str(directory))}` comes next"],
    )


@ca_app.command("show", epilog="Example: fioctl-rotate keys ca show --pretty --just-device-cas")
@common.connected
async def show(
    flags: Flags,
    pretty: Annotated[bool, option("--pretty", "Readable text instead of PEM.")] = False,
    just_root: Annotated[bool, option("--just-root", "Only the root.")] = False,
    just_tls: Annotated[bool, option("--just-tls", "Only the gateway's TLS certificate.")] = False,
    just_device_cas: Annotated[
        bool, option("--just-device-cas", "Only the device CAs, with disabled serials.")
    ] = False,
) -> Result:
    """Show the certificates that the Factory has, with a warning if one expires soon."""
    chosen = {"root": just_root, "tls": just_tls, "device-cas": just_device_cas}
    if sum(chosen.values()) > 1:
        raise UsageError("only one of --just-root, --just-tls and --just-device-cas can be used")
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.certificate_view import factory_certificates

        found, disabled = await factory_certificates(api)
    everything = not any(chosen.values())
    parts = {key: views for key, views in found.items() if everything or chosen[key]}
    document: dict[str, object] = {"factory": api.factory, "server": api.server}
    for key, views in parts.items():
        shown = [view.document for view in views]
        document[key] = shown if key == "device-cas" else next(iter(shown), None)
    if "device-cas" in parts:
        document["disabled-ca-serials"] = disabled
    serials = disabled if "device-cas" in parts else []
    return Result(
        document,
        _show_lines(parts, serials, pretty=pretty, titles=everything),
        warnings=certificates.warnings([view for views in parts.values() for view in views]),
    )


def _show_lines(
    parts: "Mapping[str, Sequence[CertificateView]]", disabled: Sequence[str], *, pretty: bool, titles: bool
) -> Iterator[str]:
    names = {"root": "Factory root", "tls": "Gateway TLS", "device-cas": "Device CAs"}
    for key, views in parts.items():
        if titles:
            yield f"## {names[key]}"
        for view in views:
            yield from certificates.lines(view, pretty=pretty)
            if pretty:
                yield ""
    if disabled:
        yield "## Disabled device CA serials"
        yield from disabled


@ca_app.command(
    "add-device-ca",
    cls=GoBooleans,
    epilog="Example: fioctl-rotate keys ca add-device-ca ./pki --local-ca --local-ca-filename plant-2.pem",
)
@common.connected
@with_keys
async def add_device_ca(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    online_ca: Annotated[
        bool, option("--online-ca/--no-online-ca", "A new device CA of the service.")
    ] = False,
    local_ca: Annotated[
        bool, option("--local-ca/--no-local-ca", "A new device CA of your own, in DIR.")
    ] = False,
    local_ca_filename: Annotated[
        str, option("--local-ca-filename NAME.pem", "File for the local CA.")
    ] = "local-ca.pem",
    local_ca_hsm_label: Annotated[
        str | None,
        option(
            "--local-ca-hsm-label LABEL",
            "Make the local CA's key in the HSM under LABEL; `est serve` can use it.",
        ),
    ] = None,
) -> Result:
    """Add a device CA to those that the Factory's gateway trusts; the earlier ones stay trusted.

    Give --online-ca, --local-ca or both. From then on a new online CA registers new devices.
    """
    pki = keys.directory(directory)
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.certificate_view import view
        from fioctl_rotate.ops.device_cas import add_device_ca

        added = await add_device_ca(
            api,
            pki,
            online_ca=online_ca,
            local_ca=local_ca,
            local_ca_filename=local_ca_filename,
            local_ca_key=None if local_ca_hsm_label is None else keys.access.token_key(local_ca_hsm_label),
            prompter=prompter(yes=True),
        )
    views = [view("device CA", certificate) for certificate in added]
    return Result(
        {"factory": api.factory, "server": api.server, "added": [view.document for view in views]},
        [f"added: {view.document['subject']}, serial {view.document['serial']}" for view in views],
    )


@ca_app.command("sign", epilog="Example: fioctl-rotate keys ca sign server.csr --pki-dir ./pki > server.pem")
@with_keys
def sign(
    keys: KeyOptions,
    csr: Annotated[Path, typer.Argument(metavar="CSR", help="File with the CSR, PEM.", show_default=False)],
    pki_dir: Annotated[Path, option("--pki-dir DIR", "PKI directory.", show_default=False)],
) -> Result:
    """Sign a CSR with the Factory's root; the certificate goes to stdout.

    A CSR that asks for CA:TRUE gives a device CA. Any other CSR gives a TLS server certificate, with the CSR's DNS
    names, IP addresses, URIs and email addresses. The Factory is not asked.
    """
    from fioctl_rotate.ops.certificate_view import view
    from fioctl_rotate.ops.signing import sign_csr

    signed = view(str(csr), sign_csr(keys.directory(pki_dir), csr))
    warning = "this is a device CA: once the Factory has it, anyone with its key can add devices"
    return Result(signed.document, [signed.pem], warnings=[warning] if signed.is_ca else [])


keys_ca.add_commands(ca_app)


@app.command("check", epilog="Example: fioctl-rotate keys check ./pki --offline")
@common.connected
@with_keys
async def check(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    offline: Annotated[bool, option("--offline", "Check only DIR; do not ask the Factory.")] = False,
    summary: SummaryOption = None,
) -> Result:
    """Check a PKI directory: keys and certificates, expiry, file modes, and that the Factory has the same.

    Nothing is changed. Exit code 5 if a check fails.
    """
    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.keys_check import check_keys

    pki, settings = keys.directory(directory), common.settings_of(flags, offline=offline)
    if offline:
        checks = await check_keys(pki, None, now=utc_now())
    else:
        async with common.open_api(settings) as api:
            checks = await check_keys(pki, api, now=utc_now())
    failed = sum(check.status == "fail" for check in checks)
    document = {
        "directory": str(directory),
        "factory": None if offline else settings.factory,
        "server": None if offline else settings.destination,
        "ok": not failed,
        "checks": checks,
    }
    error = Refused(f"{failed} of {len(checks)} checks failed") if failed else None
    result = Result(document, common.check_lines(checks, sys.stdout), error=error)
    summarize_checks(summary, f"Check of PKI directory {directory}", checks, result)
    return result
