"""Private keys: made, read from PEM and written as fioctl writes them."""

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


def load_private_key(pem: bytes, *, name: str, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in `pem`, SEC1 or PKCS#8; `name` is what errors call it.

    Raises Error where it is no key, is encrypted and `passphrase` is None or wrong, or is another kind of key.
    """
    try:
        key = serialization.load_pem_private_key(pem, passphrase)
    except TypeError as error:
        if passphrase is None:
            raise Error(f"{name} is encrypted and no passphrase was given") from error
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, UnsupportedAlgorithm) as error:
        if passphrase is not None:
            raise Error(f"{name} cannot be read: not a private key, or the passphrase is wrong") from error
        raise Error(f"{name} is not a PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Error(f"{name} is not an EC key on P-256 (prime256v1), which a Factory's keys are")
    return key
