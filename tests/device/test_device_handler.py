"""The handler's reading of an entry against a real shell with grep and cut."""

import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fioctl_rotate.device.handler import HandlerExit, RenewCert, completed_id, read_entry, value_of
from fioctl_rotate.rotation.entry import Entry

ENTRY = (
    "ESTSERVER=https://est.example:8443/.well-known/est\nPKEYIDS=01,07\nCERTIDS=03,09\nROTATIONID=certs-1\n"
)

LINES = st.lists(
    st.text("ESTVRROAINDPKCs=,:/.-# \t017é", max_size=30)
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["", " ", "#", "X"]),
        st.sampled_from(["ESTSERVER", "PKEYIDS", "CERTIDS", "ROTATIONID"]),
        st.sampled_from(["", "=", "=a", "=a=b", "==b", "= a b ", "=https://h:1/x?y=z"]),
    ),
    max_size=8,
).map("\n".join)


@pytest.mark.skipif(not shutil.which("sh"), reason="no sh here to compare with")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_values_are_what_a_shell_would_cut(tmp_path, text):
    file = tmp_path / "entry"
    file.write_text(text)
    for key in ("ESTSERVER", "ROTATIONID"):
        script = f'v=$(grep {key} "$0" | cut -d= -f2); printf %s "$v"'
        shell = subprocess.run(["sh", "-c", script, str(file)], capture_output=True, check=True)
        assert value_of(text, key) == shell.stdout.decode()


def test_what_an_entry_renders_is_read_back(tmp_path):
    entry = Entry("est.example", 8443, "/.well-known/est", ("01", "07"), ("03", "09"), "certs-1")
    assert entry.render() == ENTRY
    assert read_entry(ENTRY, tmp_path) == RenewCert(entry.est_server, "certs-1", ["01", "07"], ["03", "09"])


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (ENTRY.replace("ROTATIONID=certs-1\n", ""), 1),
        (ENTRY.replace("ROTATIONID=certs-1", "ROTATIONID="), 1),
        (ENTRY.replace("ESTSERVER", "EST"), 1),
        ("", 1),
        (ENTRY.replace("certs-1", "certs 1"), 123),
        (ENTRY.replace("01,07", "01, 07"), 123),
    ],
)
def test_what_the_handler_will_not_run(tmp_path, text, status):
    with pytest.raises(HandlerExit) as caught:
        read_entry(text, tmp_path)
    assert caught.value.status == status


def test_slot_ids_have_defaults(tmp_path):
    text = "ESTSERVER=https://h\nROTATIONID=1\n"
    assert read_entry(text, tmp_path) == RenewCert("https://h", "1", ["01", "07"], ["03", "09"])


def test_a_url_with_an_equals_sign_is_cut_short(tmp_path):
    text = ENTRY.replace("/est\n", "/est?a=b\n")
    read = read_entry(text, tmp_path)
    assert read is not None
    assert read.est_server == "https://est.example:8443/.well-known/est?a"


def test_the_completed_rotation_is_found_as_grep_finds_it(tmp_path):
    assert completed_id(tmp_path) is None
    completed = tmp_path / "cert-rotation.state.completed"
    completed.write_text(
        '{"RotationId":"certs-1","StepIdx":5,"FullConfigEncrypted":"{\\"RotationId\\":\\"no\\"}"}'
    )
    assert completed_id(tmp_path) == "certs-1"
    assert read_entry(ENTRY, tmp_path) is None
    assert read_entry(ENTRY.replace("certs-1", "certs-2"), tmp_path) is not None
    completed.write_text("{}")
    assert completed_id(tmp_path) == ""
    assert read_entry(ENTRY, tmp_path) is not None
