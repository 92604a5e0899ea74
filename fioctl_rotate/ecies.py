"""ECIES, with which devices encrypt configuration values: P-256, AES-128-CTR, HMAC-SHA-256 (go-ecies, fioconfig).

A value is base64 of: ephemeral point (65 bytes, uncompressed), IV (16), ciphertext, tag (32).
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fioctl_rotate.errors import Error

_POINT, _IV, _TAG = 65, 16, 32


def encrypt(
    key: ec.EllipticCurvePublicKey,
    value: str,
    *,
    ephemeral: Callable[[], ec.EllipticCurvePrivateKey] = lambda: ec.generate_private_key(ec.SECP256R1()),
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """`value` encrypted for the holder of `key`. An empty value becomes "", which nobody can decrypt (go-ecies)."""
    if not value:
        return ""
    secret, iv = ephemeral(), random(_IV)
    encryption_key, mac_key = _keys(secret.exchange(ec.ECDH(), key))
    encryptor = Cipher(algorithms.AES(encryption_key), modes.CTR(iv)).encryptor()
    message = iv + encryptor.update(value.encode()) + encryptor.finalize()
    point = secret.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return base64.b64encode(point + message + _mac(mac_key, message).finalize()).decode()


def decrypt(key: ec.EllipticCurvePrivateKey, encrypted: str) -> str:
    """The decrypted value. Raises Error if it was encrypted for another key, or is damaged."""
    try:
        data = base64.b64decode(encrypted, validate=True)
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), data[:_POINT])
        message, tag = data[_POINT:-_TAG], data[-_TAG:]
        if len(message) < _IV:
            raise ValueError("too short")
        encryption_key, mac_key = _keys(key.exchange(ec.ECDH(), point))
        _mac(mac_key, message).verify(tag)
        decryptor = Cipher(algorithms.AES(encryption_key), modes.CTR(message[:_IV])).decryptor()
        return (decryptor.update(message[_IV:]) + decryptor.finalize()).decode()
    except (ValueError, binascii.Error, InvalidSignature) as error:
        raise Error("the value cannot be decrypted with this device's key") from error


def _keys(shared: bytes) -> tuple[bytes, bytes]:
    """The AES key and the HMAC key from the ECDH x coordinate (SP 800-56C, no shared information)."""
    derived = ConcatKDFHash(hashes.SHA256(), 32, None).derive(shared)
    return derived[:16], hashlib.sha256(derived[16:]).digest()


def _mac(key: bytes, message: bytes) -> hmac.HMAC:
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(message)
    return mac
