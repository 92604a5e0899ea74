"""`keys`: the Factory's root and what it signs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import keys_est
from fioctl_rotate.cli.certificates import data, show_certificate
from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    YesOption,
    check_lines,
    connected,
    emit,
    emit_json,
    group,
    note,
    run,
    settings_of,
    warn,
    with_api,
)
from fioctl_rotate.cli.keystore import DirectoryArgument, GoBooleans, KeyOptions, person, with_keys
from fioctl_rotate.errors import Error, Refused, UsageError
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from cryptography import x509

    from fioctl_rotate import wire
    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.checks import Check
    from fioctl_rotate.ops.ceremony import CreatedPki

app = group("The Factory's root key and certificates.")
ca_app = group("The Factory's root and the CAs below it.")
est_app = group("The certificate of the Factory's EST server.")
app.add_typer(ca_app, name="ca")
app.add_typer(est_app, name="est")
keys_est.add_commands(est_app, "keys est")


@ca_app.command("create", cls=GoBooleans, epilog="Example: fioctl-rotate keys ca create ./pki --no-local-ca")
@connected
@with_keys
def create(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    online_ca: Annotated[
        bool,
        typer.Option(
            "--online-ca/--no-online-ca", help="A device CA of the service, for lmp-device-register."
        ),
    ] = True,
    local_ca: Annotated[
        bool, typer.Option("--local-ca/--no-local-ca", help="A device CA of your own, in DIR.")
    ] = True,
    yes: YesOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Set up the Factory's PKI: its root, the gateway's TLS certificate, and device CAs. This can be done once.

    Makes factory_ca.key and factory_ca.pem in DIR (which is made where it is missing), or adopts a root that is
    there: one made by openssl as the manual says, or a key called root-ca in an HSM. Keep factory_ca.key offline:
    without it no certificate of the Factory can ever be replaced. A run that was cut off can be run again, and ends
    with the same root.
    """
    pki, settings = keys.directory(directory), settings_of(flags)

    async def work(api: "FactoryApi") -> "CreatedPki":
        from fioctl_rotate.ops.ceremony import create_pki

        return await create_pki(api, pki, online_ca=online_ca, local_ca=local_ca, person=person(yes=yes))

    created = with_api(settings, work)
    if format is Format.JSON:
        emit_json(
            {
                "factory": settings.factory,
                "server": settings.destination,
                "directory": str(directory),
                "created": created.created,
                "root": data(created.root),
                "tls": data(created.gateway_tls),
                "device-cas": [data(ca) for ca in created.device_cas],
            }
        )
        return
    done = "set up" if created.created else "there already"
    emit(
        f"PKI of {settings.factory} on {settings.destination}: {done}, {len(created.device_cas)} device CA(s)"
    )
    note(f"keep {directory} offline; `fioctl-rotate est authorize {directory}` comes next")


@ca_app.command("show", epilog="Example: fioctl-rotate keys ca show --pretty --just-device-cas")
@connected
def show(
    flags: Flags,
    pretty: Annotated[bool, typer.Option("--pretty", help="For people, instead of PEM.")] = False,
    just_root: Annotated[bool, typer.Option("--just-root", help="Only the root.")] = False,
    just_tls: Annotated[bool, typer.Option("--just-tls", help="Only the gateway's TLS certificate.")] = False,
    just_device_cas: Annotated[
        bool, typer.Option("--just-device-cas", help="Only the device CAs, disabled serials included.")
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the certificates that the Factory has, and say when one expires soon."""
    if just_root + just_tls + just_device_cas > 1:
        raise UsageError("--just-root, --just-tls and --just-device-cas exclude each other")
    settings = settings_of(flags)

    async def fetch(api: "FactoryApi") -> "wire.Certs":
        return await api.certs()

    certs = with_api(settings, fetch)
    if not certs.root_crt:
        raise Error(
            f"{settings.factory} on {settings.destination} has no PKI of its own",
            hint="`fioctl-rotate keys ca create DIR` sets it up",
        )
    from fioctl_rotate.pki.parsing import load_bundle

    everything = not (just_root or just_tls or just_device_cas)
    parts: list[tuple[str, str, list[x509.Certificate]]] = []
    if everything or just_root:
        parts.append(("root", "Factory root", load_bundle(certs.root_crt, "the Factory's root")))
    if everything or just_tls:
        parts.append(("tls", "Gateway TLS", load_bundle(certs.tls_crt, "the gateway TLS certificate")))
    if everything or just_device_cas:
        parts.append(("device-cas", "Device CAs", load_bundle(certs.ca_crt, "the Factory's device CAs")))
    disabled = certs.disabled_ca_serials or []
    if format is Format.JSON:
        result: dict[str, object] = {"factory": settings.factory, "server": settings.destination}
        for key, _, found in parts:
            shown = [data(certificate) for certificate in found]
            result[key] = shown if key == "device-cas" else (shown[0] if shown else None)
        if everything or just_device_cas:
            result["disabled-ca-serials"] = disabled
        emit_json(result)
        return
    for _, title, found in parts:
        if everything:
            emit(f"## {title}")
        for certificate in found:
            show_certificate(f"{title}, serial {certificate.serial_number:x}", certificate, pretty=pretty)
            if pretty:
                emit("")
    if disabled and (everything or just_device_cas):
        emit("## Disabled device CA serials")
        for serial in disabled:
            emit(serial)


@ca_app.command(
    "add-device-ca",
    cls=GoBooleans,
    epilog="Example: fioctl-rotate keys ca add-device-ca ./pki --local-ca --local-ca-filename plant-2.pem",
)
@connected
@with_keys
def add_device_ca(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    online_ca: Annotated[
        bool,
        typer.Option("--online-ca/--no-online-ca", help="A new device CA of the service."),
    ] = False,
    local_ca: Annotated[
        bool, typer.Option("--local-ca/--no-local-ca", help="A new device CA of your own, in DIR.")
    ] = False,
    local_ca_filename: Annotated[
        str,
        typer.Option(
            "--local-ca-filename", metavar="NAME.pem", help="Its file, where local-ca.pem is taken."
        ),
    ] = "local-ca.pem",
    local_ca_hsm_label: Annotated[
        str | None,
        typer.Option(
            "--local-ca-hsm-label",
            metavar="LABEL",
            help="Make its key in the HSM's token, under this label; `est serve` takes it from there.",
        ),
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Add a device CA to those that the Factory's gateway trusts; the earlier ones stay trusted.

    At least one of --online-ca and --local-ca is needed. A new online CA takes over registration.
    """
    pki, settings = keys.directory(directory), settings_of(flags)

    async def work(api: "FactoryApi") -> "list[x509.Certificate]":
        from fioctl_rotate.ops.signing import add_device_ca as add

        return await add(
            api,
            pki,
            online_ca=online_ca,
            local_ca=local_ca,
            local_ca_filename=local_ca_filename,
            local_ca_key=None if local_ca_hsm_label is None else keys.token_key(local_ca_hsm_label),
            person=person(yes=True),
        )

    added = with_api(settings, work)
    if format is Format.JSON:
        emit_json(
            {
                "factory": settings.factory,
                "server": settings.destination,
                "added": [data(certificate) for certificate in added],
            }
        )
        return
    for certificate in added:
        emit(f"added: {certificate.subject.rfc4514_string()}, serial {certificate.serial_number:x}")


@ca_app.command("sign", epilog="Example: fioctl-rotate keys ca sign server.csr --pki-dir ./pki > server.pem")
@with_keys
def sign(
    keys: KeyOptions,
    csr: Annotated[Path, typer.Argument(metavar="CSR", help="File with the CSR, PEM.", show_default=False)],
    pki_dir: Annotated[
        Path, typer.Option("--pki-dir", metavar="DIR", help="PKI directory.", show_default=False)
    ],
) -> None:
    """Sign a CSR with the Factory's root; the certificate goes to stdout.

    A CSR that asks for CA:TRUE becomes a device CA, any other a TLS server's certificate with its DNS names, IP
    addresses, URIs and email addresses. No Factory is talked to.
    """
    from fioctl_rotate.ops.signing import sign_csr
    from fioctl_rotate.pki import certificates
    from fioctl_rotate.pki.parsing import is_ca

    certificate = sign_csr(keys.directory(pki_dir), csr)
    emit(certificates.pem(certificate).strip())
    if is_ca(certificate):
        warn("this is a device CA: once on file with the Factory, whoever has its key can admit devices")


@app.command("check", epilog="Example: fioctl-rotate keys check ./pki --offline")
@connected
@with_keys
def check(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    offline: Annotated[bool, typer.Option("--offline", help="Look at DIR alone; ask no Factory.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Check a PKI directory: keys and certificates match, chain, expiry, modes, and what the Factory has on file.

    Nothing is changed. Exit code 5 where something is wrong.
    """
    pki, settings = keys.directory(directory), settings_of(flags, offline=offline)

    async def work(api: "FactoryApi | None") -> "list[Check]":
        from fioctl_rotate.clock import utc_now
        from fioctl_rotate.ops.keys_check import check_keys

        return await check_keys(pki, api, now=utc_now())

    checks = run(work(None)) if offline else with_api(settings, work)
    failed = sum(check.status == "fail" for check in checks)
    if format is Format.JSON:
        emit_json(
            {
                "directory": str(directory),
                "factory": None if offline else settings.factory,
                "server": None if offline else settings.destination,
                "ok": not failed,
                "checks": checks,
            }
        )
    else:
        for line in check_lines(checks, sys.stdout):
            emit(line)
    if failed:
        raise Refused(f"{failed} of {len(checks)} checks failed")
