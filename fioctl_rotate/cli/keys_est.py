"""The EST commands that need the Factory's root or show what it signed; under `keys est` and, shorter, `est`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import certificates, common
from fioctl_rotate.cli.common import Result, YesOption, option
from fioctl_rotate.cli.keystore import DirectoryArgument, KeyOptions, prompter, with_keys
from fioctl_rotate.errors import Error, UsageError
from fioctl_rotate.files import STDIO
from fioctl_rotate.settings import Flags, Settings

if TYPE_CHECKING:
    from fioctl_rotate.ops.certificate_view import CertificateView
    from fioctl_rotate.ops.key_access import PkiDirectory

WHAT = "the EST TLS certificate"


def add_commands(app: typer.Typer, group: str) -> None:
    """Add authorize, show and keypair to `app`, which the operator types as `group`."""
    example = f"Example: fioctl-rotate {group}"
    app.command("authorize", epilog=f"{example} authorize ./pki --dryrun")(authorize)
    app.command("show", epilog=f"{example} show --pretty")(show)
    app.command("keypair", epilog=f"{example} keypair est.example.com ./pki")(keypair)


@common.connected
@with_keys
async def authorize(
    flags: Flags,
    keys: KeyOptions,
    directory: DirectoryArgument,
    csr: Annotated[Path | None, option("--csr FILE", "Sign this CSR instead of asking for one.")] = None,
    out: Annotated[
        Path | None,
        option("--out FILE", "Write the CSR (with --csr, the certificate) to FILE; upload nothing."),
    ] = None,
    upload: Annotated[
        Path | None, option("--upload FILE", "Upload this certificate, which was signed elsewhere.")
    ] = None,
    dns_name: Annotated[
        str | None,
        option(
            "--dns-name NAME",
            "The only name the CSR may ask for [default: the one in use, or the service's].",
        ),
    ] = None,
    dryrun: Annotated[
        bool, option("--dryrun --dry-run", "Check DIR and show what would be asked for.")
    ] = False,
    yes: YesOption = False,
) -> Result:
    """Authorize the managed EST server: sign its TLS certificate with the Factory's root.

    The backend makes a key and a CSR; the CSR is checked field by field, signed with factory_ca.key, uploaded, and
    read back. DIR must hold the root of this Factory.

    In three steps, when the root's key is on a machine without network: `authorize DIR --out est.csr` fetches the
    CSR (DIR needs only factory_ca.pem), `authorize DIR --csr est.csr --out est.pem` signs it and asks no server,
    `authorize DIR --upload est.pem` uploads it.
    """  # fmt: skip
    if upload is not None and (csr is not None or out is not None or dns_name is not None):
        raise UsageError("--upload cannot be used with --csr, --out or --dns-name")
    if dryrun and (upload is not None or csr is not None or out is not None):
        raise UsageError("--dryrun cannot be used with --csr, --out or --upload")
    pki = keys.directory(directory)
    settings = common.settings_of(flags, offline=csr is not None and out is not None)
    if upload is not None:
        return await _upload(settings, pki, upload, yes=yes)
    if out is not None and csr is not None:
        return _sign(settings, pki, csr, out, dns_name)
    if out is not None:
        return await _fetch(settings, pki, out, dns_name)
    return await _authorize(settings, pki, csr, dns_name, dryrun=dryrun, yes=yes)


@common.connected
async def show(
    flags: Flags,
    pretty: Annotated[bool, option("--pretty", "Readable text instead of PEM.")] = False,
) -> Result:
    """Show the TLS certificate of the Factory's EST server, with a warning if it expires soon."""
    settings = common.settings_of(flags)
    async with common.open_api(settings) as api:
        from fioctl_rotate.ops.certificate_view import view
        from fioctl_rotate.ops.factory_certs import present_est

        certificate = present_est(await api.certs())
    if certificate is None:
        raise Error(
            f"no EST server is authorized for {settings.factory} on {settings.destination}",
            hint="`fioctl-rotate est authorize DIR` authorizes the managed one",
        )
    return _shown(settings, view(WHAT, certificate), pretty=pretty)


@with_keys
def keypair(
    keys: KeyOptions,
    dns_name: Annotated[
        str, typer.Argument(metavar="DNSNAME", help="Name by which devices reach your EST server.")
    ],
    directory: DirectoryArgument,
    filename: Annotated[
        str, option("--filename NAME.pem", "The certificate's file; the key's is NAME.key.")
    ] = "est-tls.pem",
) -> Result:
    """Make a TLS key and certificate, signed by the Factory's root, for an EST server of your own.

    Both are written to DIR, mode 0400, and nothing is overwritten. The Factory is not asked: devices trust its root
    already. Take both files to the server and give them to it (`est serve --tls-cert … --tls-key …`, or estserver).
    """
    from fioctl_rotate.ops.est_authorization import make_est_keypair

    key, certificate = make_est_keypair(keys.directory(directory), dns_name, filename)
    return Result(
        {"dns-name": dns_name, "key": str(key), "certificate": str(certificate)},
        [f"key: {key}", f"certificate: {certificate}"],
        [f"rotate with `--server-name {dns_name}`; `fioctl-rotate est serve --help` shows how to serve it"],
    )


async def _authorize(
    settings: Settings,
    pki: "PkiDirectory",
    csr: Path | None,
    dns_name: str | None,
    *,
    dryrun: bool,
    yes: bool,
) -> Result:
    from fioctl_rotate.ops.certificate_view import view
    from fioctl_rotate.ops.est_authorization import authorize_est

    async with common.open_api(settings) as api:
        done = await authorize_est(
            api,
            pki,
            csr_file=csr,
            dns_name=dns_name,
            dry_run=dryrun,
            prompter=prompter(yes=yes, replaces=True),
        )
    if done.certificate is not None:
        return _authorized(settings, view(WHAT, done.certificate))
    present = None if done.replaced is None else view(WHAT, done.replaced)
    document = _in_factory(settings, present) | {"expected-name": done.expected_name}
    return Result(
        document,
        _dry_run_lines(settings, present, done.expected_name),
        warnings=certificates.warnings([present] if present else []),
    )


async def _fetch(settings: Settings, pki: "PkiDirectory", out: Path, dns_name: str | None) -> Result:
    from fioctl_rotate.ops.est_authorization import fetch_est_csr

    async with common.open_api(settings) as api:
        await fetch_est_csr(api, pki, out, dns_name=dns_name)
    return Result(
        {"factory": settings.factory, "server": settings.destination, "csr": str(out)},
        [] if out == STDIO else [str(out)],
        [f"CSR written; `fioctl-rotate est authorize DIR --csr {out} --out FILE` signs it without a network"],
    )  # fmt: skip


def _sign(settings: Settings, pki: "PkiDirectory", csr: Path, out: Path, dns_name: str | None) -> Result:
    from fioctl_rotate.ops.certificate_view import view
    from fioctl_rotate.ops.est_authorization import sign_est_csr

    certificate = view(WHAT, sign_est_csr(pki, csr, out, dns_name=dns_name))
    next_step = f"signed; `fioctl-rotate est authorize DIR --upload {out}` uploads it"
    result = _authorized(settings, certificate, next_step)
    return result.replace(lines=()) if out == STDIO else result


async def _upload(settings: Settings, pki: "PkiDirectory", upload: Path, *, yes: bool) -> Result:
    from fioctl_rotate.ops.certificate_view import view
    from fioctl_rotate.ops.est_authorization import upload_est_certificate

    async with common.open_api(settings) as api:
        uploaded = await upload_est_certificate(api, pki, upload, prompter=prompter(yes=yes, replaces=True))
    return _authorized(settings, view(WHAT, uploaded))


def _authorized(settings: Settings, certificate: "CertificateView", *notes: str) -> Result:
    name = f"the EST server of {settings.factory or 'the Factory'} is {', '.join(certificate.dns_names)}"
    return _shown(settings, certificate, *notes, name)


def _shown(settings: Settings, certificate: "CertificateView", *notes: str, pretty: bool = False) -> Result:
    return Result(
        _in_factory(settings, certificate),
        certificates.lines(certificate, pretty=pretty),
        notes,
        warnings=certificates.warnings([certificate]),
    )


def _dry_run_lines(
    settings: Settings, present: "CertificateView | None", expected_name: str | None
) -> Iterator[str]:
    yield f"Factory {settings.factory} on {settings.destination}: the root in the directory is its root"
    yield "present EST TLS certificate: " + ("none" if present is None else "")
    if present is not None:
        yield from certificates.lines(present, pretty=True)
    yield f"would ask for: a new key and CSR for {expected_name or 'one DNS name of its choice'}"


def _in_factory(settings: Settings, certificate: "CertificateView | None") -> dict[str, object]:
    return {
        "factory": settings.factory,
        "server": settings.destination,
        "est-tls": certificate.document if certificate else None,
    }
