"""`est`: EST servers: authorize the managed one, check one, run one of your own."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fioctl_rotate.cli import common, keys_est
from fioctl_rotate.cli.common import Format, Result, option
from fioctl_rotate.cli.keystore import KeyOptions, with_keys
from fioctl_rotate.cli.out_files import SummaryOption, summarize_checks
from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.rotation.entry import DEFAULT_PORT, DEFAULT_RESOURCE, est_url
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from cryptography import x509

app = common.group("EST servers: authorize, show, check, run one.")
keys_est.add_commands(app, "est")


@app.command(epilog="Example: fioctl-rotate est check --server-name est.example.com --pki ./pki")
@common.connected
async def check(
    flags: Flags,
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="The EST server's URL, as in ESTSERVER.")
    ] = None,
    server_name: Annotated[
        str | None, option("--server-name NAME", "The EST server's DNS name [default: the Factory's].")
    ] = None,
    est_port: Annotated[
        int | None, option("-p --est-port PORT", f"The EST server's port [default: {DEFAULT_PORT}].")
    ] = None,
    est_resource: Annotated[
        str | None, option("-e --est-resource PATH", f"The path on it [default: {DEFAULT_RESOURCE}].")
    ] = None,
    pki: Annotated[Path | None, option("--pki DIR", "Take the root from factory_ca.pem in DIR.")] = None,
    cert: Annotated[
        Path | None,
        option("--cert FILE", "Re-enroll with this device certificate; the server issues a new one."),
    ] = None,
    key: Annotated[Path | None, option("--key FILE", "Private key for --cert.")] = None,
    summary: SummaryOption = None,
) -> Result:
    """Check an EST server as a device would see it, before devices use it.

    A device trusts only the Factory's root, compares the server's name with the SAN, and is stuck until the server
    works. Each check is one line; exit code 5 if one of them fails. The server's name and the root are read from
    the Factory if they are not given.

    With --cert and --key it re-enrolls as a device does. The new certificate is thrown away; the device's own stays
    valid. Devices with LmP 97 and later accept more answers than those with LmP 90 to 96.
    """
    if (cert is None) != (key is None):
        raise UsageError("--cert and --key must be given together")
    if url is not None and any(part is not None for part in (server_name, est_port, est_resource)):
        raise UsageError("give either URL, or --server-name with --est-port and --est-resource")
    port = DEFAULT_PORT if est_port is None else est_port
    resource = DEFAULT_RESOURCE if est_resource is None else est_resource

    def url_of(host: str) -> str:
        return url or est_url(host, port, resource)

    if server_name is not None:
        url = url_of(server_name)
    settings = None if url is not None and pki is not None else common.settings_of(flags)

    from fioctl_rotate.clock import utc_now
    from fioctl_rotate.ops.est_check import check_est

    identity = (cert, key) if cert is not None and key is not None else None
    seen = await check_est(settings, url, pki, url_of=url_of, identity=identity, now=utc_now())
    error = Refused(
        f"devices would not rotate against {seen.url}",
        hint="a device that fetched this URL would be stuck until the server works",
    )
    result = Result(
        {"url": seen.url, "ok": not seen.failed, "checks": list(seen.checks), **_issued(seen.issued)},
        common.check_lines(seen.checks, sys.stdout),
        [f"checked {seen.url}"],
        error=error if seen.failed else None,
    )
    summarize_checks(summary, f"Check of EST server {seen.url}", seen.checks, result)
    return result


def _issued(certificate: "x509.Certificate | None") -> dict[str, object]:
    if certificate is None:
        return {}
    not_after = f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return {"issued": {"serial": f"{certificate.serial_number:x}", "not-after": not_after}}


@app.command("deny-list", epilog="Example: fioctl-rotate est deny-list > deny.txt")
@common.connected
async def deny_list(flags: Flags) -> Result:
    """Print the Factory's denied devices as a deny list, for `est serve --deny`.

    Each line is the uuid of a device. Lines `serial HEX` and `key SHA256` can be added by hand; `#` begins a
    comment. Send SIGHUP to a running EST server after each change of the file.
    """
    from fioctl_rotate.ops.connect import open_api
    from fioctl_rotate.ops.est_serve import factory_deny_list

    async with open_api(common.settings_of(flags)) as api:
        text = await factory_deny_list(api)
    return Result({"deny": text.splitlines()}, text.splitlines())


@app.command(
    epilog="Example: fioctl-rotate est serve --root-cert factory_ca.pem --tls-cert est-tls.pem"
    " --tls-key est-tls.key --ca-cert est-ca.pem --ca-key est-ca.key --client-cas client-cas.pem"
)
@with_keys
def serve(
    keys: KeyOptions,
    root_cert: Annotated[Path, option("--root-cert FILE", "The Factory's root; one or more certificates.")],
    ca_cert: Annotated[Path, option("--ca-cert FILE", "The device CA that signs new certificates.")],
    tls_cert: Annotated[Path | None, option("--tls-cert FILE", "This server's certificate.")] = None,
    tls_key: Annotated[Path | None, option("--tls-key FILE", "Private key for --tls-cert.")] = None,
    ca_key: Annotated[Path | None, option("--ca-key FILE", "Private key for --ca-cert, in a file.")] = None,
    hsm_key_label: Annotated[
        str, option("--hsm-key-label LABEL", "Label of the private key for --ca-cert, in an HSM.")
    ] = "local-ca",
    client_cas: Annotated[
        Path | None,
        option("--client-cas FILE", "Device CAs whose devices may enroll, besides those of --ca-cert."),
    ] = None,
    port: Annotated[
        int, option("--port PORT", "Port to listen on; 0: any free one.", min=0, max=65535)
    ] = 8443,
    host: Annotated[
        str | None,
        option("--host ADDRESS", "Address to listen on [default: 0.0.0.0; 127.0.0.1 with --behind-proxy]."),
    ] = None,
    unix_socket: Annotated[
        Path | None, option("--unix-socket PATH", "Listen on a UNIX socket, with --behind-proxy.")
    ] = None,
    cert_duration: Annotated[
        str, option("--cert-duration DURATION", "How long new certificates are valid, like 26280h.")
    ] = "26280h",
    enroll: Annotated[
        Literal["own", "any", "off"],
        option("--enroll", "Subjects that simpleenroll accepts: the client's own, any, or none (off)."),
    ] = "own",
    deny: Annotated[
        Path | None,
        option("--deny FILE", "List of clients that get no certificate; `est deny-list` prints one."),
    ] = None,
    workers: Annotated[int, option("--workers N", "Processes that share the port.", min=1)] = 1,
    max_connections: Annotated[
        int,
        option(
            "--max-connections N", "Connections at the same time in each process; each takes 0.35 MB.", min=1
        ),
    ] = 512,
    status_port: Annotated[
        int | None,
        option("--status-port PORT", "Serve /healthz and /metrics on 127.0.0.1.", min=0, max=65535),
    ] = None,
    behind_proxy: Annotated[
        bool, option("--behind-proxy", "Let a proxy end TLS; needs --client-cert-header.")
    ] = False,
    client_cert_header: Annotated[
        str | None,
        option("--client-cert-header NAME", "The header in which the proxy sends the client's certificate."),
    ] = None,
    rfc7030: Annotated[
        bool,
        option("--rfc7030", "Answer with status 200 as in RFC 7030; devices before 2026-02 accept only 201."),
    ] = False,
    log_format: Annotated[Format, option("--log-format", "Format of the log lines.")] = Format.TEXT,
) -> None:
    """Run your own EST server for a Factory, until Ctrl-C.

    `keys ca add-device-ca` makes the CA and its key, and gives the certificate to the Factory, so that the gateway
    trusts it. `est keypair` makes the TLS certificate and its key. Each request is one line on stderr. At SIGHUP
    the server reads all files again. It keeps no state, so several can stand behind a TCP load balancer.
    """
    if behind_proxy != (client_cert_header is not None):
        raise UsageError("--behind-proxy and --client-cert-header must be given together")
    if behind_proxy == (tls_cert is not None) or (tls_cert is None) != (tls_key is None):
        raise UsageError("give either --tls-cert and --tls-key, or --behind-proxy")
    if unix_socket is not None and (host is not None or not behind_proxy):
        raise UsageError("--unix-socket needs --behind-proxy, and cannot be used with --host")
    if behind_proxy and host not in (None, "127.0.0.1", "::1", "localhost"):
        raise UsageError(
            f"--behind-proxy listens on loopback or a UNIX socket only, got {host}",
            hint="everybody who reaches this port could claim to be any device",
        )
    if client_cert_header is not None and client_cert_header.lower() == "x-forwarded-client-cert":
        raise UsageError(
            "Envoy's x-forwarded-client-cert may hold several certificates; expected a header with one",
            hint="have Envoy set X-Client-Cert to %DOWNSTREAM_PEER_CERT%, and give that name here",
        )
    from fioctl_rotate.ops.est_serve import EstFiles, EstService, Listening, serve_est

    service = EstService(
        files=EstFiles(
            root_cert=root_cert,
            tls_cert=tls_cert,
            tls_key=tls_key,
            ca_cert=ca_cert,
            ca_key=keys.ca_key(ca_key, hsm_key_label),
            client_cas=client_cas,
            deny=deny,
        ),
        cert_duration=cert_duration,
        rfc7030=rfc7030,
        enroll=enroll,
        connections=max_connections,
        client_cert_header=client_cert_header,
        json_log=log_format is Format.JSON,
    )
    where = Listening(
        host=host or ("127.0.0.1" if behind_proxy else "0.0.0.0"),  # noqa: S104  for devices elsewhere, as estserver
        port=port,
        unix_socket=unix_socket,
        workers=workers,
        status_port=status_port,
    )
    serve_est(service, where, started=lambda url: common.note(f"EST server at {url}; Ctrl-C ends it"))
