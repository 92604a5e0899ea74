"""The EST commands that need the Factory's root or show what it signed; under `keys est` and, shorter, `est`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli.certificates import data, show_certificate
from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    YesOption,
    connected,
    emit,
    emit_json,
    note,
    settings_of,
    with_api,
)
from fioctl_rotate.cli.keystore import DirectoryArgument, KeyOptions, person, with_keys
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.settings import Flags, Settings

if TYPE_CHECKING:
    from cryptography import x509

    from fioctl_rotate.api.client import FactoryApi
    from fioctl_rotate.ops.ceremony import AuthorizedEst
    from fioctl_rotate.pki.directory import PkiDirectory

DnsNameOption = Annotated[
    str | None,
    typer.Option(
        "--dns-name",
        metavar="NAME",
        help="The one name that the CSR may ask for; by default that of the present certificate, else what goes "
        "with the gateway's.",
    ),
]


def add_commands(app: typer.Typer, group: str) -> None:
    """Add authorize, show and keypair to `app`, which the operator types as `group`."""
    example = f"Example: fioctl-rotate {group}"
    app.command("authorize", epilog=f"{example} authorize ./pki --dryrun")(authorize)
    app.command("show", epilog=f"{example} show --pretty")(show)
    app.command("keypair", epilog=f"{example} keypair est.example.com ./pki")(keypair)


@connected
@with_keys
def authorize(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    csr: Annotated[
        Path | None, typer.Option("--csr", metavar="FILE", help="Sign this CSR instead of asking for one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Stop here: write the CSR or, with --csr, the certificate to FILE."
        ),
    ] = None,
    upload: Annotated[
        Path | None,
        typer.Option("--upload", metavar="FILE", help="Upload this certificate, which was signed elsewhere."),
    ] = None,
    dns_name: DnsNameOption = None,
    dryrun: Annotated[
        bool, typer.Option("--dryrun", "--dry-run", help="Check DIR and show what would be asked for.")
    ] = False,
    yes: YesOption = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Authorize the managed EST server: sign its TLS certificate with the Factory's root.

    The backend makes a key and a CSR; the CSR is looked at field by field, signed with factory_ca.key, uploaded,
    and read back. DIR must hold the root of this very Factory.

    In three, when the root's key is on a machine without network: `authorize DIR --out est.csr` fetches the CSR
    (DIR needs factory_ca.pem alone), `authorize DIR --csr est.csr --out est.pem` signs it and asks no server,
    `authorize DIR --upload est.pem` uploads it.
    """
    if upload is not None and (csr is not None or out is not None or dns_name is not None):
        raise UsageError("--upload goes alone, with no --csr, --out or --dns-name")
    if dryrun and (upload is not None or csr is not None or out is not None):
        raise UsageError("--dryrun goes with neither --csr, --out nor --upload")
    pki = keys.directory(directory)
    settings = settings_of(flags, offline=csr is not None and out is not None)
    if upload is not None:
        certificate = _upload(settings, pki, upload, yes=yes)
    elif out is not None and csr is None:
        _fetch(settings, pki, out, dns_name, format)
        return
    elif out is not None and csr is not None:
        from fioctl_rotate.ops.signing import sign_est_csr

        certificate = sign_est_csr(pki, csr, out, dns_name=dns_name)
        note(f"signed; `est authorize DIR --upload {out}` uploads it")
    else:
        done = _authorize(settings, pki, csr, dns_name, dryrun=dryrun, yes=yes)
        if done.certificate is None:
            _show_dry_run(settings, done, format)
            return
        certificate = done.certificate
    _show_authorized(settings, certificate, format)


@connected
def show(
    flags: Flags,
    pretty: Annotated[bool, typer.Option("--pretty", help="For people, instead of PEM.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the TLS certificate of the Factory's EST server, and say when it expires soon."""
    settings = settings_of(flags)

    async def fetch(api: "FactoryApi") -> "x509.Certificate | None":
        from fioctl_rotate.ops.ceremony import present_est

        return present_est(await api.certs())

    certificate = with_api(settings, fetch)
    if certificate is None:
        raise Error(
            f"no EST server is authorized for {settings.factory} on {settings.destination}",
            hint="`fioctl-rotate est authorize DIR` authorizes the managed one",
        )
    if format is Format.JSON:
        emit_json(_in_factory(settings, certificate))
        return
    show_certificate("the EST TLS certificate", certificate, pretty=pretty)


@with_keys
def keypair(
    keys: KeyOptions,
    dns_name: Annotated[
        str, typer.Argument(metavar="DNSNAME", help="Name by which devices reach your EST server.")
    ],
    directory: DirectoryArgument,
    filename: Annotated[
        str, typer.Option("--filename", metavar="NAME.pem", help="Certificate's file; the key's is NAME.key.")
    ] = "est-tls.pem",
    format: FormatOption = Format.TEXT,
) -> None:
    """Make a TLS key and certificate, signed by the Factory's root, for an EST server of your own.

    Both are written to DIR, mode 0400, and nothing is overwritten. No Factory is talked to: devices trust the root
    already. Take both files to the server and give them to it (`est serve --tls-cert … --tls-key …`, or estserver).
    """
    from fioctl_rotate.ops.signing import make_est_keypair

    key, certificate = make_est_keypair(keys.directory(directory), dns_name, filename)
    if format is Format.JSON:
        emit_json({"dns-name": dns_name, "key": str(key), "certificate": str(certificate)})
        return
    emit(f"key: {key}\ncertificate: {certificate}")
    note(f"rotate with `--server-name {dns_name}`; serve with `fioctl-rotate est serve`")


def _authorize(
    settings: Settings,
    pki: "PkiDirectory",
    csr: Path | None,
    dns_name: str | None,
    *,
    dryrun: bool,
    yes: bool,
) -> "AuthorizedEst":
    async def work(api: "FactoryApi") -> "AuthorizedEst":
        from fioctl_rotate.files import read
        from fioctl_rotate.ops.ceremony import authorize_est

        return await authorize_est(
            api,
            pki,
            csr_pem=read(csr) if csr else None,
            dns_name=dns_name,
            dry_run=dryrun,
            person=person(yes=yes, replaces=True),
        )

    return with_api(settings, work)


def _fetch(settings: Settings, pki: "PkiDirectory", out: Path, dns_name: str | None, format: Format) -> None:
    async def work(api: "FactoryApi") -> None:
        from fioctl_rotate.ops.signing import fetch_est_csr

        await fetch_est_csr(api, pki, out, dns_name=dns_name)

    with_api(settings, work)
    if format is Format.JSON:
        emit_json({"factory": settings.factory, "server": settings.destination, "csr": str(out)})
        return
    emit(str(out))
    note(f"the CSR is there; `est authorize DIR --csr {out} --out FILE` signs it, with no network")


def _upload(settings: Settings, pki: "PkiDirectory", upload: Path, *, yes: bool) -> "x509.Certificate":
    async def work(api: "FactoryApi") -> "x509.Certificate":
        from fioctl_rotate.ops.signing import upload_est_certificate

        return await upload_est_certificate(api, pki, upload, person=person(yes=yes, replaces=True))

    return with_api(settings, work)


def _show_authorized(settings: Settings, certificate: "x509.Certificate", format: Format) -> None:
    if format is Format.JSON:
        emit_json(_in_factory(settings, certificate))
        return
    from fioctl_rotate.pki.parsing import dns_names

    show_certificate("the EST TLS certificate", certificate, pretty=False)
    note(f"the EST server of {settings.factory or 'the Factory'} is {', '.join(dns_names(certificate))}")


def _show_dry_run(settings: Settings, done: "AuthorizedEst", format: Format) -> None:
    if format is Format.JSON:
        emit_json(_in_factory(settings, done.replaced) | {"expected-name": done.expected_name})
        return
    emit(f"Factory {settings.factory} on {settings.destination}: the root in the directory is its root")
    emit("present EST TLS certificate: " + ("none" if done.replaced is None else ""))
    if done.replaced is not None:
        show_certificate("the EST TLS certificate", done.replaced, pretty=True)
    emit(f"would ask for: a new key and CSR for {done.expected_name or 'one DNS name of its choice'}")


def _in_factory(settings: Settings, certificate: "x509.Certificate | None") -> dict[str, object]:
    return {
        "factory": settings.factory,
        "server": settings.destination,
        "est-tls": data(certificate),
    }
