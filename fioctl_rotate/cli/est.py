"""`est`: EST servers: authorize the managed one, look at one, run one of your own."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate.cli import keys_est
from fioctl_rotate.cli.common import (
    Format,
    FormatOption,
    check_lines,
    connected,
    emit,
    emit_json,
    group,
    note,
    run,
    settings_of,
)
from fioctl_rotate.cli.keystore import KeyOptions, with_keys
from fioctl_rotate.errors import Refused, UsageError, printable
from fioctl_rotate.rotation.entry import DEFAULT_PORT, DEFAULT_RESOURCE, est_url
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate.pki.stores import KeyStore

app = group("EST servers: authorize, show, check, run one.")
keys_est.add_commands(app, "est")


class LogFormat(StrEnum):
    """How a log line looks."""

    TEXT = "text"
    JSON = "json"


@app.command(epilog="Example: fioctl-rotate est check --server-name est.example.com --pki ./pki")
@connected
def check(
    flags: Flags,
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]", help="The EST server, as ESTSERVER names it to devices.", show_default=False
        ),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option("--server-name", metavar="NAME", help="The EST server's DNS name; else the Factory's."),
    ] = None,
    est_port: Annotated[
        int | None,
        typer.Option(
            "-p", "--est-port", metavar="PORT", help=f"The EST server's port; {DEFAULT_PORT} unless given."
        ),
    ] = None,
    est_resource: Annotated[
        str | None,
        typer.Option(
            "-e",
            "--est-resource",
            metavar="PATH",
            help=f"The path on the EST server; {DEFAULT_RESOURCE} unless given.",
        ),
    ] = None,
    pki: Annotated[
        Path | None,
        typer.Option("--pki", metavar="DIR", help="Take the root from factory_ca.pem in DIR."),
    ] = None,
    format: FormatOption = Format.TEXT,
) -> None:
    """Look at an EST server as a device would see it, before devices are told to use it.

    A device trusts the Factory's root alone, takes the server's name from the SAN, and is stuck for good with a
    server that does not work. Each thing that was looked at is a line; exit code 5 where one of them fails. The
    Factory is asked for what is not given: its EST server's name, its root.
    """
    if url is not None and any(part is not None for part in (server_name, est_port, est_resource)):
        raise UsageError("a URL and a part of one are both given", hint="the URL alone says it all")
    port = DEFAULT_PORT if est_port is None else est_port
    resource = DEFAULT_RESOURCE if est_resource is None else est_resource

    def url_of(host: str) -> str:
        return url or est_url(host, port, resource)

    if server_name is not None:
        url = url_of(server_name)
    settings = None if url is not None and pki is not None else settings_of(flags)

    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.est_check import check_est

    result = run(check_est(settings, url, pki, url_of=url_of, now=utc_now()))
    if format is Format.JSON:
        emit_json({"url": result.url, "ok": not result.failed, "checks": list(result.checks)})
    else:
        note(printable(f"looking at {result.url}"))
        for line in check_lines(result.checks, sys.stdout):
            emit(line)
    if result.failed:
        raise Refused(
            f"devices would not rotate against {result.url}",
            hint="a device that fetched this URL would be stuck until the server works",
        )


@app.command(
    epilog="Example: fioctl-rotate est serve --root-cert factory_ca.pem --tls-cert est-tls.pem"
    " --tls-key est-tls.key --ca-cert local-ca.pem --ca-key local-ca.key --client-cas device-cas.pem"
)
@with_keys
def serve(
    keys: KeyOptions,
    root_cert: Annotated[
        Path,
        typer.Option("--root-cert", metavar="FILE", help="The Factory's root; one or more certificates."),
    ],
    tls_cert: Annotated[Path, typer.Option("--tls-cert", metavar="FILE", help="This server's certificate.")],
    tls_key: Annotated[Path, typer.Option("--tls-key", metavar="FILE", help="Its key.")],
    ca_cert: Annotated[
        Path, typer.Option("--ca-cert", metavar="FILE", help="The device CA that signs new certificates.")
    ],
    ca_key: Annotated[
        Path | None, typer.Option("--ca-key", metavar="FILE", help="Its key, where that is a file.")
    ] = None,
    hsm_key_label: Annotated[
        str, typer.Option("--hsm-key-label", metavar="LABEL", help="What its key is called in an HSM.")
    ] = "local-ca",
    client_cas: Annotated[
        Path | None,
        typer.Option(
            "--client-cas", metavar="FILE", help="Device CAs whose devices may enroll, beside --ca-cert's."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")
    ] = 8443,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "0.0.0.0",  # noqa: S104  a server for devices elsewhere, as estserver
    cert_duration: Annotated[
        str,
        typer.Option("--cert-duration", metavar="DURATION", help="How long new certificates live, as 1.5h."),
    ] = "26280h",
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", min=1, help="Processes that share the port.")
    ] = 1,
    rfc7030: Annotated[
        bool,
        typer.Option(
            "--rfc7030", help="Answer with status 200 as RFC 7030 says; devices before 2026-02 take only 201."
        ),
    ] = False,
    log_format: Annotated[
        LogFormat, typer.Option("--log-format", help="How a log line looks.")
    ] = LogFormat.TEXT,
) -> None:
    """Run an EST server for a Factory that manages its own, until Ctrl-C.

    `keys ca add-device-ca` makes the CA and its key, and puts it on file with the Factory, so that the gateway
    trusts it; `est keypair` makes the TLS certificate and its key. One line a request goes to stderr; SIGHUP reads
    all files again. The server keeps nothing, so several can stand behind a TCP load balancer.
    """
    from fioctl_rotate.est.go_duration import parse_duration
    from fioctl_rotate.ops.est_serve import EstFiles, EstService, serve_est

    service = EstService(
        files=EstFiles(
            root_cert=root_cert,
            tls_cert=tls_cert,
            tls_key=tls_key,
            ca_cert=ca_cert,
            ca_key=_ca_key(keys, ca_key, hsm_key_label),
            client_cas=client_cas,
        ),
        lifetime=parse_duration(cert_duration),
        rfc7030=rfc7030,
        json_log=log_format is LogFormat.JSON,
    )
    serve_est(
        service,
        host=host,
        port=port,
        workers=workers,
        started=lambda url: note(f"EST server at {url}; Ctrl-C ends it"),
    )


def _ca_key(keys: KeyOptions, file: Path | None, label: str) -> "KeyStore":
    """Where the CA's key is: in a file, or in the token that `keys` names."""
    if (file is None) == (keys.hsm_module is None):
        raise UsageError("the CA's key is either in --ca-key or in an HSM", hint="--hsm-module names the HSM")
    if file is None:
        return keys.token_key(label)
    from fioctl_rotate.pki.stores import FileKeyStore

    return FileKeyStore(file, keys.ask_passphrase())
