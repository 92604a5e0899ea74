"""The state file, byte for byte as Go writes it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate.device.state_file import RotationState, go_json, load, save
from fioctl_rotate.wire import GatewayFile

STATES = st.builds(
    RotationState,
    rotation_id=st.text(min_size=1),
    step_idx=st.integers(0, 5),
    est_server=st.text(),
    pkey_slot_ids=st.none() | st.lists(st.text()),
    cert_slot_ids=st.none() | st.lists(st.text()),
    new_key=st.text(),
    new_cert=st.text(),
    full_config_encrypted=st.text(),
    device_config_updated=st.booleans(),
    finalized=st.booleans(),
)


def test_a_fresh_state_byte_for_byte():
    state = RotationState(
        rotation_id="certs-1", est_server="https://h/x?a&<b>", pkey_slot_ids=["01", "07"], cert_slot_ids=None
    )
    assert go_json(state) == (
        rb'{"RotationId":"certs-1","StepIdx":0,"EstServer":"https://h/x?a\u0026\u003cb\u003e",'
        rb'"PkeySlotIds":["01","07"],"CertSlotIds":null,"NewKey":"","NewCert":"","FullConfigEncrypted":"",'
        rb'"DeviceConfigUpdated":false,"Finalized":false}'
    )


def test_a_configuration_byte_for_byte():
    config = {
        "b": GatewayFile(value="1\n"),
        "a": GatewayFile(value="\u2028", on_changed=["x"], unencrypted=True),
    }
    assert go_json(config) == (
        rb'{"a":{"Value":"\u2028","OnChanged":["x"],"Unencrypted":true},'
        rb'"b":{"Value":"1\n","OnChanged":null,"Unencrypted":false}}'
    )


@given(STATES)
def test_any_state_comes_back_and_is_plain_json(tmp_path_factory, state):
    directory = tmp_path_factory.mktemp("state")
    save(directory, state)
    assert load(directory) == state
    text = (directory / "cert-rotation.state").read_text()
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text)["RotationId"] == state.rotation_id
