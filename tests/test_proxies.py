"""Which end failed: the proxy on the way, or the server; and what is not tried again."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.api.proxies import proxy_for
from fioctl_rotate.errors import UsageError
from tests.commandline import Cli, Result
from tests.scripted import Drop, Reply, Server

Serve = Callable[..., Server]
LIST = ("config", "device-group", "list")
WORLD = "https://api.example"


# --- Which proxy ---


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, WORLD, None),
        ({"HTTPS_PROXY": "http://p:3128"}, WORLD, "the proxy http://p:3128 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "p:3128"}, WORLD, "the proxy http://p:3128 (HTTPS_PROXY)"),
        ({"https_proxy": "http://q", "HTTPS_PROXY": "http://p"}, WORLD, "the proxy http://q (https_proxy)"),
        ({"https_proxy": " ", "ALL_PROXY": "https://p"}, WORLD, "the proxy https://p (ALL_PROXY)"),
        ({"HTTP_PROXY": "http://p"}, WORLD, None),
        ({"HTTPS_PROXY": "http://me:canary@p:1"}, WORLD, "the proxy http://p:1 (HTTPS_PROXY)"),
        ({"HTTPS_PROXY": "http://p"}, "https://localhost:9", None),
        ({"HTTPS_PROXY": "http://p"}, "https://127.0.0.2", None),
        ({"HTTPS_PROXY": "http://p"}, "https://[::1]:9", None),
    ],
)
def test_the_environment_names_the_proxy(environ: dict[str, str], url: str, proxy: str | None) -> None:
    found = proxy_for(url, environ)
    assert (None if found is None else str(found)) == proxy
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", WORLD, True),
        ("api.example", WORLD, True),
        ("example", WORLD, True),
        (".example", WORLD, True),
        ("*.example", WORLD, True),
        ("EXAMPLE", WORLD, True),
        ("other, example", WORLD, True),
        ("ample", WORLD, False),
        ("api.example:443", WORLD, True),
        ("api.example:444", WORLD, False),
        ("", WORLD, False),
        (",, .", WORLD, False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3:443", "https://10.1.2.3", True),
        ("10.1.2.3", "https://10.1.2.3", True),
        ("localhost,127.0.0.0/8,::1/128", WORLD, False),
        ("fe80::/10", "https://[fe80::1]", True),
        ("fe80::/10", "https://[2001:db8::1]", False),
        ("2001:db8::1", "https://[2001:db8::1]", True),
        ("[2001:db8::1]:443", "https://[2001:db8::1]", True),
        ("[2001:db8::1]:1", "https://[2001:db8::1]", False),
        ("::/0", "https://10.1.2.3", False),
        ("10.0.0.0/99", "https://10.1.2.3", False),
    ],
)
def test_no_proxy_takes_out_names_addresses_and_ranges(no_proxy: str, url: str, direct: bool) -> None:
    assert (proxy_for(url, {"HTTPS_PROXY": "http://p", "NO_PROXY": no_proxy}) is None) == direct


@given(st.text(max_size=30), st.text(st.sampled_from("a.:/[]*,0129 "), max_size=30))
def test_any_variable_names_a_proxy_or_is_refused(proxy: str, no_proxy: str) -> None:
    with contextlib.suppress(UsageError):
        proxy_for(WORLD, {"HTTPS_PROXY": proxy, "NO_PROXY": no_proxy})


@pytest.mark.parametrize(
    "value",
    ["http://", "ftp://p", "http://p:port", "http://[::1", "http://p:99999", "http://a b", "socks5://p:1"],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    result = cli(*LIST, "-f", "acme", "-t", "canary", "--server", WORLD)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert "HTTPS_PROXY" in result.err
    assert "canary" not in result.err


# --- What a proxy does ---


@pytest.fixture
def through(cli: Cli, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> Callable[[str], Result]:
    """A command that talks to `WORLD` through the proxy at a URL."""
    serve(Reply)  # retries follow each other without a pause

    def call(proxy: str) -> Result:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        return cli(*LIST, "-f", "acme", "-t", "canary-token", "--server", WORLD)

    return call


@pytest.mark.parametrize(
    ("status", "times"), [(407, 1), (403, 1), (502, 4)], ids=["wants a password", "refuses", "fails"]
)
def test_a_proxy_that_refuses_is_named_and_asked_again_only_where_that_may_help(
    through: Callable[[str], Result], status: int, times: int
) -> None:
    with Server(lambda _: Reply(status, b"<html>proxy</html>")) as proxy:
        result = through(proxy.url.replace("//", "//me:canary-password@"))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: the proxy {proxy.url} (HTTPS_PROXY) answered {status} ")
    assert ("http://USER:PASSWORD@HOST:PORT in HTTPS_PROXY" in result.err) == (status == 407)
    assert "canary" not in result.err
    assert [asked.method for asked in proxy.asked] == ["CONNECT"] * times
    assert "osf-token" not in proxy.asked[0].headers


def test_a_proxy_that_is_not_there_is_named(through: Callable[[str], Result]) -> None:
    proxy = Server(lambda _: Reply())
    with proxy:
        pass
    assert through(proxy.url).err.startswith(
        f"error: the proxy {proxy.url} (HTTPS_PROXY) cannot be reached: Connection refused\n"
    )


def test_a_proxy_without_a_name_in_the_dns_is_named(through: Callable[[str], Result]) -> None:
    assert (
        "error: the proxy http://proxy.invalid:1 (HTTPS_PROXY) cannot be reached: "
        in through("http://proxy.invalid:1").err
    )


def test_a_name_that_no_dns_takes_is_an_error_of_one_line(cli: Cli) -> None:
    result = cli(*LIST, "-f", "acme", "-t", "canary", "--server", f"https://{'a' * 70}.example")
    assert (result.code, result.out) == (1, "")
    assert "cannot be reached" in result.err or "the connection to https://" in result.err


# --- TLS ---


@pytest.fixture
def tunnel(tls: tuple[ssl.SSLContext, Path]) -> Iterator[str]:
    """A proxy that answers CONNECT by talking TLS itself, with a certificate that nobody trusts; its URL."""
    context, _ = tls
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_certificate_that_is_not_trusted_names_the_server_and_the_way(
    through: Callable[[str], Result], tunnel: str
) -> None:
    result = through(tunnel)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        f"error: {WORLD} cannot be trusted through the proxy {tunnel} (HTTPS_PROXY): certificate verify failed"
    )
    assert "hint: name the CA of the server, or of the proxy, with CACERT" in result.err


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_client_certificate_is_an_error_that_says_so(
    cli: Cli,
    serve: Serve,
    tls: tuple[ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
    version: ssl.TLSVersion,
) -> None:
    context, root = tls
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    monkeypatch.setenv("CACERT", str(root))
    server = serve(lambda _: Reply(), context)
    result = cli(*LIST)
    assert (result.code, result.out) == (1, "")
    assert server.url in result.err.splitlines()[0]
    # In TLS 1.3 the request is on its way by then, and its arrival may reset the connection before we hear why.
    assert "wants a client certificate" in result.err
    assert "device gateway" in result.err
    assert server.asked == []


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_the_wrong_scheme_is_an_error_of_one_line(
    cli: Cli,
    serve: Serve,
    tls: tuple[ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
) -> None:
    server = serve(lambda _: Reply(200, {"groups": []}), tls[0] if scheme == "http" else None)
    monkeypatch.setenv("FIOCTL_ROTATE_SERVER", f"{scheme}://{server.url.split('//')[1]}")
    result = cli(*LIST)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ")
    assert "unexpected" not in result.err


def test_a_server_that_closes_every_connection_is_tried_again(cli: Cli, serve: Serve) -> None:
    def answer(_: object) -> Reply:
        raise Drop

    server = serve(answer)
    assert f"{server.url} closed the connection before its answer" in cli(*LIST).err
    assert len(server.asked) == 4
