"""Whatever bytes come as a CSR or a certificate, policy answers in words: it never breaks, and never lets one pass
that was changed."""

from collections.abc import Callable
from typing import TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from fioctl_rotate.errors import Error
from fioctl_rotate.hostname import host_name_fault
from fioctl_rotate.pki import certificate_rules, describe, policy
from fioctl_rotate.pki.parsing import is_ca, load_certificate, load_csr
from fioctl_rotate.pki.policy import Purpose
from tests.pki.pki_making import CA, FACTORY, LEAF, NOW, ROOT, SERVER, armored, certificate, csr, der, usage

T = TypeVar("T")

CSRS = [
    der(csr()),
    der(csr(x509.BasicConstraints(ca=True, path_length=None), usage("key_cert_sign"), san=None)),
    der(csr(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), usage("digital_signature"))),
]
ROOT_CERTIFICATE = certificate()
CERTIFICATES = [der(ROOT_CERTIFICATE), der(certificate(name=SERVER, issuer=ROOT, extensions=[*LEAF, CA[0]]))]


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> tuple[bytes, bytes]:
    """One of `whole`, and the same with a few bytes set, cut or added."""
    sound = draw(st.sampled_from(whole))
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["set", "set", "set", "cut", "insert"]))
        if how == "set":
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at : at + draw(st.integers(1, 20))]
            if not data:
                break
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
    return sound, bytes(data)


def loaded(load: Callable[[bytes, str], T], data: bytes) -> T | None:
    """What was loaded, or None where it was refused in words."""
    try:
        return load(data, "it")
    except Error as error:
        words = error.message
    assert words.startswith("it ")
    return None


@given(damaged(CSRS), st.sampled_from(Purpose))
@example((CSRS[0], b"\x30\x00"), Purpose.EST_TLS)
def test_a_damaged_csr_is_refused_in_words(data: tuple[bytes, bytes], purpose: Purpose) -> None:
    sound, changed = data
    read = loaded(load_csr, armored(changed))
    if read is None:
        return
    violations = policy.csr_violations(read, purpose, FACTORY)
    assert all(line.strip() for line in violations)
    is_ca(read)
    if violations == []:
        # What was read is the CSR that its key signed: what differs is what no signature covers.
        assert read.tbs_certrequest_bytes == x509.load_der_x509_csr(sound).tbs_certrequest_bytes


@given(damaged(CERTIFICATES))
def test_a_damaged_certificate_is_refused_in_words(data: tuple[bytes, bytes]) -> None:
    sound, changed = data
    read = loaded(load_certificate, armored(changed, "CERTIFICATE"))
    if read is None:
        return
    assert describe.as_text(read)
    assert describe.as_data(read)["sha256"]
    assert describe.expiry(read, now=NOW) != ""
    verdicts = [
        certificate_rules.root_violations(read, FACTORY, now=NOW),
        certificate_rules.device_ca_violations(read, FACTORY, ROOT_CERTIFICATE, now=NOW),
        certificate_rules.server_certificate_violations(read, ROOT_CERTIFICATE, now=NOW),
    ]
    assert all(line.strip() for verdict in verdicts for line in verdict)
    if [] in verdicts[1:]:
        assert read.tbs_certificate_bytes == x509.load_der_x509_certificate(sound).tbs_certificate_bytes


@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)))
def test_anything_at_all_is_an_error_in_words(data: bytes) -> None:
    assert loaded(load_csr, data) is None
    assert loaded(load_certificate, data) is None


@given(st.text(max_size=80))
def test_a_host_name_is_letters_digits_hyphens_and_dots(name: str) -> None:
    if host_name_fault(name) is None:
        assert name.isascii()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.")
        assert not name.startswith(("-", "."))
        assert not name.endswith(("-", "."))
        assert ".." not in name
