"""ECIES as the devices' own library does it; the vectors were made and checked with that library."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fioctl_rotate import ecies
from fioctl_rotate.errors import Error

KEY = ec.derive_private_key(7, ec.SECP256R1())

# Encrypted by the library for the private key 7.
THEIRS = {
    "a": (
        "04730c13015dd159a5eb88528158b6ccd5b155e98aa9c0a0e1cbf087212d58378ace9bd265f700eaebdb0abf486fd54c"
        "5048bcbe716b5467e32234d44cb2e1ad2e5e088d4946076668ec06031657ff7d0b0eba842af5f1f98122b2e245a0734f"
        "0aef80e646155a69b6c1877850244154e32b"
    ),
    "0123456789abcdef0123456789abcdef!": (
        "04c536a78eed2ffef34dc143b16c754a2707940ed8e613709cf2c7414df5eb5c081b117a8c14e9cc5f2d352fead3450b"
        "bc0431979021b781427707d6a35ec0108a8de0f30219775156dd224b0b4f40734121ba5aeab6ef812f0c17e6bfbe00df"
        "1c1c4dc07e138012612f167fee2b0b13b7e43fe30273092e869d0059f57ea817ccd6b29b5bc566f40867a3d205db7cd2"
        "2e31"
    ),
    "ünï\n": (
        "04a0e7fbdf2a0d771f830056b379c4072050d2ac0450c34755b71270055b3db58a2501368afa855418b06e8fe3bec067"
        "989fea27ab31e9a1dbfa2a1ee1bcaade3fb32d670a58274621f3ae41c914880273e2226277f7369d16520f21e3e47cd6"
        "53370aac3ca47003c6ea97d2d57b30ff305faf321b07d1"
    ),
}
# "hello, device" with the ephemeral key 9 and the IV 00 01 … 0f; the library decrypts it.
OURS = (
    "04ea68d7b6fedf0b71878938d51d71f8729e0acb8c2c6df8b3d79e8a4b90949ee02a2744c972c9fce787014a964a8ea0c84d714feaa4de"
    "823fe85a224a4dd048fa000102030405060708090a0b0c0d0e0f158268d00a6417c1c64ec632c71112f781159b55861d4566b605f73f0d"
    "9dbe806708e0fdf0604eaa281b429f77"
)


def b64(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("value", THEIRS)
def test_decrypts_what_the_library_encrypts(value):
    assert ecies.decrypt(KEY, b64(bytes.fromhex(THEIRS[value]))) == value


def test_encrypts_what_the_library_decrypts():
    encrypted = ecies.encrypt(
        KEY.public_key(),
        "hello, device",
        ephemeral=lambda: ec.derive_private_key(9, ec.SECP256R1()),
        random=lambda length: bytes(range(length)),
    )
    assert base64.b64decode(encrypted).hex() == OURS


def test_an_empty_value_becomes_what_cannot_be_decrypted():
    assert ecies.encrypt(KEY.public_key(), "") == ""
    with pytest.raises(Error):
        ecies.decrypt(KEY, "")


@given(st.text(min_size=1))
def test_any_value_comes_back(value):
    assert ecies.decrypt(KEY, ecies.encrypt(KEY.public_key(), value)) == value


@given(st.integers(0, len(OURS) // 2 - 1), st.integers(1, 255))
def test_one_byte_changed_is_noticed(index, change):
    data = bytearray.fromhex(OURS)
    data[index] ^= change
    with pytest.raises(Error, match="cannot be decrypted"):
        ecies.decrypt(KEY, b64(bytes(data)))


@given(st.one_of(st.text(), st.binary(max_size=200).map(b64)))
def test_anything_else_is_refused_with_a_message(text):
    with pytest.raises(Error, match="cannot be decrypted"):
        ecies.decrypt(KEY, text)


def test_another_key_does_not_decrypt():
    with pytest.raises(Error, match="cannot be decrypted"):
        ecies.decrypt(ec.derive_private_key(8, ec.SECP256R1()), b64(bytes.fromhex(OURS)))
