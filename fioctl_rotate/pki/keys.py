"""Private keys: made, read from PEM and written as fioctl writes them."""

from collections.abc import Callable

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fioctl_rotate.errors import Error


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new key on P-256, the only curve a Factory uses."""
    return ec.generate_private_key(ec.SECP256R1())


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as one unencrypted SEC1 block ("EC PRIVATE KEY"), all that fioctl and estserver read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def public_key_pem(key: ec.EllipticCurvePublicKey) -> str:
    """The key as one "PUBLIC KEY" block, the form in which devices and the API show it."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def load_private_key(
    pem: bytes, *, name: str, passphrase: bytes | Callable[[], bytes | None] | None = None
) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in `pem`, SEC1 or PKCS#8; `name` is what errors call it.

    A `passphrase` that is a function is called only where the key is encrypted. Raises Error where it is no key,
    is encrypted and there is no passphrase or a wrong one, or is another kind of key.
    """
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError as error:  # what cryptography raises for an encrypted key
        word = passphrase() if callable(passphrase) else passphrase
        if word is None:
            raise Error(
                f"{name} is encrypted and no passphrase was given",
                hint="set FIOCTL_ROTATE_KEY_PASSPHRASE, give --key-passphrase-file, or run it on a terminal",
            ) from error
        try:
            key = serialization.load_pem_private_key(pem, word)
        except (ValueError, UnsupportedAlgorithm) as wrong:
            raise Error(
                f"{name} cannot be decrypted: the passphrase is wrong, or the file damaged"
            ) from wrong
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Error(f"{name} is not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Error(f"{name} is not an EC key on P-256 (prime256v1), which a Factory's keys are")
    return key


def same_key(one: object, other: ec.EllipticCurvePublicKey) -> bool:
    """Whether `one`, any public key, is `other`."""
    return isinstance(one, ec.EllipticCurvePublicKey) and one == other
