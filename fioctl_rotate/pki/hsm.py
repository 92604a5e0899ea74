"""Private keys in a PKCS#11 token: found by label, made there, used there; they never leave it.

fioctl and pkcs11-tool give the root's key the label `root-ca`; its id differs by build, so only the label counts.
Needs the extra `[hsm]` (python-pkcs11).
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from fioctl_rotate.errors import Error

if TYPE_CHECKING:
    import pkcs11

T = TypeVar("T")

ROOT_LABEL = "root-ca"
_FIRST_ID = b"\x01"  # what the manual's recipe gives the key
_P256 = bytes.fromhex("06082a8648ce3d030107")  # its OID in DER, which EC_PARAMS holds
_NOT_P256 = "is not an EC key on P-256 (prime256v1), which a Factory's keys are"


@dataclass(frozen=True)
class Token:
    """A PKCS#11 token: the module's path (a shared library), the token's label, and who knows its PIN."""

    module: str
    label: str
    pin: Callable[[], str] = field(repr=False)


class TokenKeyStore:
    """The EC P-256 key pair with a label in a token."""

    def __init__(self, token: Token, label: str = ROOT_LABEL) -> None:
        self.token = token
        self.label = label
        self._session = _Session(token)
        self.name = f"key {label} in token {token.label}"

    def __reduce__(self) -> tuple[object, ...]:
        return TokenKeyStore, (self.token, self.label)  # another process logs in by itself

    def load(self) -> "TokenPrivateKey | None":
        """The key, or None where no key has the label. Raises Error where it cannot be used."""
        return self._session.call(self._load)

    def create(self) -> "TokenPrivateKey":
        """Make the pair in the token, try it, and take it away again where it does not work. Raises Error."""
        return self._session.call(self._create, write=True)

    def _load(self, session: "pkcs11.Session") -> "TokenPrivateKey | None":
        from pkcs11 import Attribute, KeyType, ObjectClass

        private = list(_objects(session, self.label, ObjectClass.PRIVATE_KEY))
        public = list(_objects(session, self.label, ObjectClass.PUBLIC_KEY))
        if not private and not public:
            return None
        if len(private) != 1 or len(public) != 1:
            raise Error(
                f"{self.name}: {len(private)} private and {len(public)} public keys, where one of each is due",
                hint=f"look with `pkcs11-tool --list-objects --login`; only one pair may be called {self.label}",
            )
        if public[0][Attribute.KEY_TYPE] is not KeyType.EC:
            raise Error(f"{self.name} {_NOT_P256}")
        key = _public_key(public[0][Attribute.EC_PARAMS], public[0][Attribute.EC_POINT], self.name)
        return TokenPrivateKey(self._session, self.label, key)

    def _create(self, session: "pkcs11.Session") -> "TokenPrivateKey":
        from pkcs11 import Attribute, KeyType, ObjectClass
        from pkcs11.util.ec import encode_named_curve_parameters

        if self._load(session) is not None:
            raise Error(f"{self.name} exists already, and is never overwritten")
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
        try:
            parameters.generate_keypair(id=_FIRST_ID, label=self.label, store=True, private_template=fixed)
            key = self._load(session)
            if key is None:
                raise Error(f"{self.name} was made and cannot be found")
            key.try_out(session)
        except BaseException:
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                for half in _objects(session, self.label, kind):
                    half.destroy()
            raise
        return key


class TokenPrivateKey(ec.EllipticCurvePrivateKey):
    """A private key whose signatures the token makes, for whoever takes an EC key: X.509 builders, PKCS#7."""

    def __init__(self, session: "_Session", label: str, public_key: ec.EllipticCurvePublicKey) -> None:
        self._session = session
        self._label = label
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
            raise Error(f"{self._label}: the token's private and public key are not a pair") from error

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
        raise UnsupportedAlgorithm("a key in a token is for signing alone")

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
        from pkcs11 import Mechanism, ObjectClass

        (private,) = _objects(session, self._label, ObjectClass.PRIVATE_KEY)
        raw = cast(Any, private).sign(digest, mechanism=Mechanism.ECDSA)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


class _Session:
    """One logged-in session with a token, opened at first use and again where the token dropped it."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._open: pkcs11.Session | None = None
        self._writable = False
        # PKCS#11 sessions have one operation under way at a time.
        self._lock = threading.Lock()

    def call(self, work: Callable[["pkcs11.Session"], T], *, write: bool = False) -> T:
        """What `work` returns for the session. Raises Error in words for what PKCS#11 says in codes."""
        try:
            from pkcs11 import exceptions
        except ImportError as error:
            raise Error(
                "keys in an HSM need python-pkcs11, which is not installed",
                hint="install python-pkcs11, which is what the extra `hsm` of this package brings",
            ) from error
        dropped = (
            exceptions.SessionHandleInvalid,
            exceptions.SessionClosed,
            exceptions.UserNotLoggedIn,
            exceptions.DeviceRemoved,
        )
        with self._lock:
            try:
                if self._open is None or write > self._writable:
                    self._connect(write=write)
                assert self._open is not None  # noqa: S101  _connect has set it
                try:
                    return work(self._open)
                except dropped:
                    self._connect(write=write)
                    return work(self._open)
            except exceptions.PKCS11Error as error:
                raise Error(
                    f"token {self._token.label}: {_words(error)}",
                    hint=_HINTS.get(type(error).__name__, f"the PKCS#11 module is {self._token.module}"),
                ) from error

    def _connect(self, *, write: bool) -> None:
        import pkcs11
        from pkcs11.exceptions import SessionClosed, SessionHandleInvalid, UserAlreadyLoggedIn

        if self._open is not None:
            with contextlib.suppress(SessionClosed, SessionHandleInvalid):
                self._open.close()
            self._open = None
        token = pkcs11.lib(self._token.module).get_token(token_label=self._token.label)
        try:
            self._open = token.open(rw=write, user_pin=self._token.pin())
        except UserAlreadyLoggedIn:
            # The login belongs to the process: another key of this token is in use.
            self._open = token.open(rw=write)
        self._writable = write


_HINTS = {
    "NoSuchToken": "`softhsm2-util --show-slots` or `pkcs11-tool --list-slots` shows the labels of the tokens",
    "MultipleTokensReturned": "give one of them another label",
    "PinIncorrect": "FIOCTL_ROTATE_HSM_PIN, --hsm-pin-file or the prompt gives the user's PIN",
    "PinLenRange": "FIOCTL_ROTATE_HSM_PIN, --hsm-pin-file or the prompt gives the user's PIN",
    "PinLocked": "too many wrong PINs; the security officer can set a new one",
}

_WORDS = {
    "NoSuchToken": "there is no token with this label",
    "MultipleTokensReturned": "several tokens have this label",
    "PinIncorrect": "the PIN is wrong",
    "PinLenRange": "the PIN is wrong (its length is)",
    "PinLocked": "the PIN is locked",
    "UserPinNotInitialized": "no user PIN was set yet",
    "TokenWriteProtected": "the token is write-protected",
    "MechanismInvalid": "it does not know ECDSA on P-256",
}


def _words(error: Exception) -> str:
    name = type(error).__name__
    return _WORDS.get(name) or (f"{error}" if str(error) else f"PKCS#11 says {name}")


def _objects(session: "pkcs11.Session", label: str, kind: "pkcs11.ObjectClass") -> "list[pkcs11.Object]":
    from pkcs11 import Attribute

    return list(session.get_objects({Attribute.LABEL: label, Attribute.CLASS: kind}))


def _public_key(parameters: bytes, point: bytes, name: str) -> ec.EllipticCurvePublicKey:
    if parameters != _P256:
        raise Error(f"{name} {_NOT_P256}")
    # PKCS#11 says a DER OCTET STRING; some tokens give the bare point.
    if len(point) == 67:
        point = point[2:]
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise Error(f"{name}: the token's public key is no point on P-256") from error


def _digest(data: bytes, algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
    chosen = algorithm.algorithm
    if isinstance(chosen, Prehashed):
        digest = data
    else:
        state = hashes.Hash(chosen)
        state.update(data)
        digest = state.finalize()
    return digest[:32]  # ECDSA takes the leftmost bits, as many as the curve's order has (FIPS 186-5 §6.4.1)
