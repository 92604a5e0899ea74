"""The entry: byte for byte what fioctl sends, and what a device's shell reads back from it."""

import contextlib
import subprocess
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fioctl_rotate.errors import UsageError
from fioctl_rotate.rotation import entry as entries


def make(**changes: object) -> entries.Entry:
    request: dict[str, object] = {
        "server_name": "est.example.com",
        "port": 8443,
        "resource": "/.well-known/est",
        "pkey_ids": "01,07",
        "cert_ids": "03,09",
        "rotation_id": "certs-1731340767",
    }
    return entries.make_entry(**(request | changes))  # type: ignore[arg-type]  # wrong kinds are tried on purpose


def test_the_value_is_byte_for_byte_what_fioctl_sends() -> None:
    assert make().render() == (
        "ESTSERVER=https://est.example.com:8443/.well-known/est\n"
        "PKEYIDS=01,07\n"
        "CERTIDS=03,09\n"
        "ROTATIONID=certs-1731340767\n"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"server_name": "https://est.example.com"}, "has a scheme"),
        ({"server_name": "est.example.com:8443"}, "has a port"),
        ({"server_name": "est.example.com/est"}, "has a path"),
        ({"server_name": "est example.com"}, "white space"),
        ({"server_name": "est\n.example.com"}, "white space"),
        ({"server_name": "est=example.com"}, "`=`"),
        ({"server_name": ""}, "empty"),
        ({"server_name": "-est.example.com"}, "not a DNS name"),
        ({"server_name": "est..example.com"}, "not a DNS name"),
        ({"server_name": "est.example.com."}, "not a DNS name"),
        ({"server_name": "*.example.com"}, "not a DNS name"),
        ({"server_name": "est.$(reboot).com"}, "not a DNS name"),
        ({"server_name": "a" * 64 + ".com"}, "not a DNS name"),
        ({"server_name": "1.2.3"}, "not a DNS name or an IPv4 address"),
        ({"server_name": "1.2.3.256"}, "not a DNS name or an IPv4 address"),
        ({"server_name": "::1"}, "IPv6"),
        ({"server_name": "[2001:db8::1]"}, "IPv6"),
        ({"server_name": "CERTIDS.example.com"}, "CERTIDS"),
        ({"server_name": "\u2024.example"}, "no ASCII form"),
        ({"port": 0}, "between 1 and 65535"),
        ({"port": 65536}, "between 1 and 65535"),
        ({"port": -1}, "between 1 and 65535"),
        ({"resource": ""}, "empty"),
        ({"resource": "/"}, "empty"),
        ({"resource": "/est?x"}, "query"),
        ({"resource": "/est#x"}, "fragment"),
        ({"resource": "/est=x"}, "`=`"),
        ({"resource": "/e st"}, "white space"),
        ({"resource": "/est\n"}, "white space"),
        ({"resource": "/est*"}, "`*`"),
        ({"resource": "/e[s]t"}, "`[`"),
        ({"resource": "/est;reboot"}, "`;`"),
        ({"resource": "/$HOME"}, "`$`"),
        ({"resource": "/`id`"}, "shell"),
        ({"resource": "/ROTATIONID"}, "ROTATIONID"),
        ({"resource": "/est/"}, "ends in `/`"),
        ({"resource": "//est"}, "`//`"),
        ({"resource": "/a//est"}, "`//`"),
        ({"resource": "/./est"}, "`..`"),
        ({"resource": "/x/../est"}, "`..`"),
        ({"resource": "/est/.."}, "`..`"),
        ({"resource": "/x/%2e%2E/est"}, "`..`"),
        ({"resource": "/100%"}, "hexadecimal"),
        ({"resource": "/%zz/est"}, "hexadecimal"),
        ({"pkey_ids": "01"}, "two slot ids"),
        ({"pkey_ids": "01,07,08"}, "two slot ids"),
        ({"pkey_ids": "1,7"}, "two slot ids"),
        ({"pkey_ids": "01, 07"}, "two slot ids"),
        ({"pkey_ids": "0a,07"}, "two slot ids"),
        ({"pkey_ids": "\u0661\u0661,07"}, "two slot ids"),
        ({"pkey_ids": "07,07"}, "twice"),
        ({"pkey_ids": "00,07"}, "crashes"),
        ({"cert_ids": "03,03"}, "twice"),
        ({"cert_ids": "03,00"}, "crashes"),
        ({"cert_ids": ""}, "two slot ids"),
        ({"rotation_id": ""}, "letters"),
        ({"rotation_id": "-r"}, "letters"),
        ({"rotation_id": "a b"}, "letters"),
        ({"rotation_id": "a=b"}, "letters"),
        ({"rotation_id": "certs-1\n"}, "letters"),
        ({"rotation_id": "PKEYIDS"}, "PKEYIDS"),
        ({"rotation_id": "a" * 129}, "longer"),
    ],
)
def test_what_a_device_would_cut_or_misread_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(UsageError, match=reason.replace("*", r"\*").replace("[", r"\[").replace("$", r"\$")):
        make(**changes)


def test_a_url_typed_as_a_name_is_answered_with_the_options_it_meant() -> None:
    with pytest.raises(UsageError) as caught:
        make(server_name="https://est.example.com:9443/path")
    assert caught.value.hint == "--server-name est.example.com --est-port 9443 --est-resource /path"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("/.well-known/est/", "--est-resource /.well-known/est"),
        ("/x/../.well-known/est", "--est-resource /.well-known/est"),
        ("//a//b/", "--est-resource /a/b"),
        ("/x/%2e%2e/est", "--est-resource /est"),
        ("//", "leave it out for /.well-known/est"),
        ("/..", "leave it out for /.well-known/est"),
    ],
)
def test_a_path_that_servers_would_tidy_is_answered_with_the_tidy_one(typed: str, meant: str) -> None:
    """A device tidies nothing: it asks for the text of ESTSERVER and `/simplereenroll`."""
    with pytest.raises(UsageError) as caught:
        make(resource=typed)
    assert caught.value.hint == meant


def test_an_international_name_goes_out_in_its_ascii_form() -> None:
    # IDNA 2008: the sharp s is a letter of its own, not "ss".
    assert entries.est_url("straße.example") == "https://xn--strae-oqa.example:8443/.well-known/est"


def test_a_resource_without_a_leading_slash_gets_one() -> None:
    assert entries.est_url("a.example", 443, "est/x") == "https://a.example:443/est/x"


@pytest.mark.parametrize("slots", ["10,07", "07,99"])
def test_slots_that_are_more_than_one_byte_are_warned_about(slots: str) -> None:
    assert len(entries.slot_warnings(make(pkey_ids=slots))) == 1


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://", "http://a:1/x", "https://a/x", "https://a:/x", "https://a:\u00b2/x"),
        *("https://a:" + "1" * 5000 + "/x", "ftp://a:1", "https://[::1]:1/x"),
    ],
)
def test_what_is_not_a_valid_estserver_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        entries.Entry.parse(f"ESTSERVER={url}\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=a\n")


@given(value=st.text(max_size=60) | st.text("ESTSERVRPKYIDCON=:/0123,\n", max_size=80))
def test_any_value_parses_or_is_refused(value: str) -> None:
    with contextlib.suppress(UsageError):
        entries.Entry.parse(value)


@given(start=st.integers(0, 2**33), run=st.integers(0, 5))
def test_a_new_id_is_never_one_that_is_taken(start: int, run: int) -> None:
    taken = {f"certs-{start + i}" for i in range(run)}
    assert entries.new_rotation_id(start, taken) == f"certs-{start + run}"


labels = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)
slots = st.sampled_from(["01,07", "03,09", "09,01", "10,07"])
GOOD: dict[str, st.SearchStrategy[object]] = {
    "server_name": st.one_of(
        st.lists(labels, min_size=1, max_size=4).map(".".join), st.just("münchen.example")
    ),
    "port": st.integers(1, 65535),
    "resource": st.from_regex(r"/?[A-Za-z0-9/._~%+@:,-]{1,12}", fullmatch=True),
    "pkey_ids": slots,
    "cert_ids": slots,
    "rotation_id": labels,
}
# One field in four is anything at all, the shell's own characters among it.
text = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("=*?[]$`'\"\\ \n\t;&|~-")), max_size=8)


def _mostly(good: st.SearchStrategy[Any], number: int) -> st.SearchStrategy[Any]:
    return good if number else text


REQUESTS = st.fixed_dictionaries(
    {name: st.integers(0, 3).flatmap(partial(_mostly, good)) for name, good in GOOD.items()}
    | {"port": GOOD["port"]}
)


@settings(max_examples=300, deadline=None)
@given(request=REQUESTS)
def test_a_real_shell_reads_back_what_was_accepted(request: dict[str, object]) -> None:
    try:
        entry = make(**request)
    except UsageError:
        return
    value = entry.render()
    expected = [entry.est_server, ",".join(entry.pkey_ids), ",".join(entry.cert_ids), entry.rotation_id]
    # As the handler does it: the value in a file's place, the result used unquoted.
    script = "".join(
        f'x=$(printf %s "$V" | grep {k} | cut -d= -f2); printf "%s\\n" $x; ' for k in entries.KEYS
    )
    done = subprocess.run(
        ["sh", "-c", script], env={"V": value, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == expected
    assert list(entries.parse_value(value).values()) == expected
    assert entries.Entry.parse(value) == entry
