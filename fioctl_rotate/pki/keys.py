"""Makes keys, names them for people, and writes them as fioctl does."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

P256 = "EC P-256"
"""The name for people of the only kind of key that a Factory uses."""


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new key on P-256, the only curve a Factory uses."""
    return ec.generate_private_key(ec.SECP256R1())


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as one unencrypted SEC1 block ("EC PRIVATE KEY"): fioctl and estserver read no other form."""
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


def key_kind(key: object) -> str:
    """The kind of a public key, for people: `EC P-256`, `RSA 2048`."""
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            return P256
        case ec.EllipticCurvePublicKey():
            return f"EC {key.curve.name}"
        case rsa.RSAPublicKey():
            return f"RSA {key.key_size}"
        case dsa.DSAPublicKey():
            return f"DSA {key.key_size}"
        case _:
            return type(key).__name__.removeprefix("_").removesuffix("PublicKey")
