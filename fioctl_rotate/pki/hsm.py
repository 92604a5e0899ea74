"""Private keys in a PKCS#11 token: found by label or id, made and used in the token, never taken out of it.

fioctl and pkcs11-tool give the root's key the label `root-ca`. Its id differs by build, so it is found by the label
unless a PKCS#11 URI says otherwise. Needs the extra `[hsm]` (python-pkcs11).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from fioctl_rotate.errors import Error
from fioctl_rotate.pki.hsm_session import Session, Token
from fioctl_rotate.pki.keys import P256, key_kind
from fioctl_rotate.pki.parsing import load_certificate_der

if TYPE_CHECKING:
    import pkcs11

ROOT_LABEL = "root-ca"
_FIRST_ID = b"\x01"  # the id in the manual's recipe
_P256 = bytes.fromhex("06082a8648ce3d030107")  # its OID in DER, which EC_PARAMS holds


class TokenKeyStore:
    """The EC P-256 key in a token that has this label and, where one is given, this id (label None: any)."""

    def __init__(self, token: Token, label: str | None = ROOT_LABEL, id: bytes | None = None) -> None:
        self.token = token
        self.label = label
        self.id = id
        self._session = Session(token)
        shown = label if label is not None else f"with id {(id or b'').hex()}"
        self.name = f"key {shown} in token {token.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return TokenKeyStore, (self.token, self.label, self.id)  # another process logs in for itself

    def load(self, certificate: x509.Certificate | None = None) -> "TokenPrivateKey | None":
        """The key, or None where there is none. Raises Error where it cannot be used.

        Many tokens hold only the private half. Then the public half is in a certificate: one in the token with the
        key, or `certificate`. A signature shows whether it fits.
        """
        return self._session.call(lambda session: self._load(session, certificate))

    def create(self) -> "TokenPrivateKey":
        """Make the pair in the token and try it; delete it where it does not work. Raises Error."""
        return self._session.call(self._create, write=True)

    def _load(
        self, session: "pkcs11.Session", certificate: x509.Certificate | None
    ) -> "TokenPrivateKey | None":
        from pkcs11 import Attribute, KeyType, ObjectClass

        privates = self._objects(session, ObjectClass.PRIVATE_KEY)
        publics = self._objects(session, ObjectClass.PUBLIC_KEY)
        if not privates and not publics:
            return None
        if len(privates) != 1 or len(publics) > 1:
            raise Error(
                f"{self.name}: expected one private key and its public key, got {len(privates)} and {len(publics)}",
                hint="`pkcs11-tool --list-objects --login --module FILE` shows them; a PKCS#11 URI with an id "
                "(--hsm-uri) names one of several",
            )
        (private,) = privates
        if private[Attribute.KEY_TYPE] is not KeyType.EC:
            raise Error(f"{self.name}: expected an {P256} key, got {private[Attribute.KEY_TYPE].name}")
        publics = publics or _of_same_id(session, private, ObjectClass.PUBLIC_KEY)
        if publics:
            public = _public_key(publics[0][Attribute.EC_PARAMS], publics[0][Attribute.EC_POINT], self.name)
            return TokenPrivateKey(self._session, private, public)
        key = TokenPrivateKey(self._session, private, self._certified(session, private, certificate))
        key.try_out(session)
        return key

    def _certified(
        self, session: "pkcs11.Session", private: "pkcs11.Object", given: x509.Certificate | None
    ) -> ec.EllipticCurvePublicKey:
        """The public key in the certificate that the token has for the private key, else in `given`."""
        from pkcs11 import Attribute, ObjectClass

        beside = self._objects(session, ObjectClass.CERTIFICATE)
        for found in beside or _of_same_id(session, private, ObjectClass.CERTIFICATE):
            given = load_certificate_der(found[Attribute.VALUE], f"the certificate of {self.name}")
        if given is None:
            raise Error(
                f"{self.name} has no public key in the token, and no certificate was found that has it",
                hint="import the public key or the certificate with the key's id: `pkcs11-tool --write-object`",
            )
        public = given.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            raise Error(f"{self.name}: expected an {P256} key, got {key_kind(public)}")
        return public

    def _create(self, session: "pkcs11.Session") -> "TokenPrivateKey":
        from pkcs11 import Attribute, KeyType, ObjectClass
        from pkcs11.util.ec import encode_named_curve_parameters

        if self._load(session, None) is not None:
            raise Error(f"{self.name} already exists, and is never overwritten")
        parameters = session.create_domain_parameters(
            KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
        )
        fixed = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.SIGN: True,
            Attribute.DECRYPT: False,
            Attribute.UNWRAP: False,
        }
        label, key_id = ROOT_LABEL if self.label is None else self.label, self.id or _FIRST_ID
        try:
            parameters.generate_keypair(id=key_id, label=label, store=True, private_template=fixed)
            key = self._load(session, None)
            if key is None:
                raise Error(f"{self.name} was made, but cannot be found")
            key.try_out(session)
        except BaseException:
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                for half in self._objects(session, kind):
                    half.destroy()
            raise
        return key

    def _objects(self, session: "pkcs11.Session", kind: "pkcs11.ObjectClass") -> "Sequence[pkcs11.Object]":
        from pkcs11 import Attribute

        wanted: dict[Attribute, Any] = {Attribute.CLASS: kind}
        if self.label is not None:
            wanted[Attribute.LABEL] = self.label
        if self.id is not None:
            wanted[Attribute.ID] = self.id
        return list(session.get_objects(wanted))


class TokenPrivateKey(ec.EllipticCurvePrivateKey):
    """A private key whose signatures the token makes. X.509 builders and PKCS#7 use it as any EC key."""

    def __init__(
        self, session: Session, private: "pkcs11.Object", public_key: ec.EllipticCurvePublicKey
    ) -> None:
        from pkcs11 import Attribute, ObjectClass

        self._session = session
        # After a session was opened again, handles are new: so the object is looked up for each signature.
        self._private = {
            Attribute.CLASS: ObjectClass.PRIVATE_KEY,
            Attribute.LABEL: private[Attribute.LABEL],
            Attribute.ID: private[Attribute.ID],
        }
        self._public_key = public_key

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """The ECDSA signature over `data`, DER. Raises Error where the token does not make one."""
        digest = _digest(bytes(data), signature_algorithm)
        return self._session.call(lambda session: self._sign(session, digest))

    def try_out(self, session: "pkcs11.Session") -> None:
        """Make a signature and check it. Raises Error where the two halves are not a pair."""
        message = b"is this key a pair?"
        algorithm = ec.ECDSA(hashes.SHA256())
        signature = self._sign(session, _digest(message, algorithm))
        try:
            self._public_key.verify(signature, message, algorithm)
        except InvalidSignature as error:
            raise Error(
                f"token {self._session.token.name}: its private key does not fit the public key or certificate"
            ) from error

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """256."""
        return self.curve.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Not offered: a root only signs."""
        raise UnsupportedAlgorithm("a key in a token only signs")

    def private_numbers(self) -> NoReturn:
        """Not offered: the key never leaves the token."""
        raise UnsupportedAlgorithm("the key never leaves its token")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        """Not offered: the key never leaves the token."""
        raise UnsupportedAlgorithm("the key never leaves its token")

    def __copy__(self) -> "TokenPrivateKey":
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> "TokenPrivateKey":
        return self

    def _sign(self, session: "pkcs11.Session", digest: bytes) -> bytes:
        from pkcs11 import Mechanism

        (private,) = session.get_objects(self._private)
        # Such a key needs the PIN again for each signature.
        pin = self._session.token.pin() if _always_authenticates(private) else None
        raw = cast(Any, private).sign(digest, mechanism=Mechanism.ECDSA, pin=pin)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def _always_authenticates(private: "pkcs11.Object") -> bool:
    from pkcs11 import Attribute
    from pkcs11.exceptions import AttributeTypeInvalid

    try:
        return bool(private[Attribute.ALWAYS_AUTHENTICATE])
    except AttributeTypeInvalid:
        return False  # a token from before PKCS#11 2.20


def _of_same_id(
    session: "pkcs11.Session", private: "pkcs11.Object", kind: "pkcs11.ObjectClass"
) -> "Sequence[pkcs11.Object]":
    """The objects of this kind with the private key's id: on many cards their labels differ from the key's."""
    from pkcs11 import Attribute

    key_id = private[Attribute.ID]
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: key_id})) if key_id else []


def _public_key(parameters: bytes, point: bytes, name: str) -> ec.EllipticCurvePublicKey:
    if parameters != _P256:
        raise Error(f"{name}: expected an {P256} key, got another curve")
    # PKCS#11 wants a DER OCTET STRING; some tokens give the bare point.
    if len(point) in (2 + 33, 2 + 65):
        point = point[2:]
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise Error(f"{name}: the token's public key is not a point on P-256") from error


def _digest(data: bytes, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
    chosen = algorithm.algorithm
    if isinstance(chosen, Prehashed):
        digest = data
    else:
        state = hashes.Hash(chosen)
        state.update(data)
        digest = state.finalize()
    return digest[:32]  # ECDSA uses the leftmost bits, as many as the curve's order has (FIPS 186-5 §6.4.1)
