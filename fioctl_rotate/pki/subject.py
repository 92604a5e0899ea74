"""The subject of a certificate or CSR as the bytes that were signed.

EST compares subjects byte for byte (RFC 7030 §4.2.2), string types and order included. So a subject that was parsed
and encoded again is not good enough.
"""

import itertools
from collections.abc import Iterator

from cryptography import x509

from fioctl_rotate.errors import Error


def raw_subject(signed: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The DER of the subject, exactly as it stands in `signed`."""
    if isinstance(signed, x509.CertificateSigningRequest):
        # CertificationRequestInfo: version, subject (RFC 2986 §4.1).
        return _nth(_elements(signed.tbs_certrequest_bytes), 1)
    # TBSCertificate: version (absent in X.509 v1), serial, algorithm, issuer, validity, subject (RFC 5280 §4.1).
    fields = _elements(signed.tbs_certificate_bytes)
    return _nth(fields, 4 if next(fields)[0] == 0xA0 else 3)


def copied_subject(
    signed: x509.Certificate | x509.CertificateSigningRequest, raw: bytes | None = None
) -> x509.Name:
    """The subject for another certificate or CSR; `raw` is its `raw_subject` where that is known.

    Raises Error where it would not come out byte for byte the same.
    """
    subject = signed.subject
    if subject.public_bytes() != (raw or raw_subject(signed)):
        raise Error("the subject cannot be copied byte for byte")
    return subject


def _nth(elements: Iterator[bytes], number: int) -> bytes:
    return next(itertools.islice(elements, number, None))


def _elements(sequence: bytes) -> Iterator[bytes]:
    """The elements, header included, of a DER SEQUENCE that the X.509 parser has already found valid."""
    start, _ = _content(sequence, 0)
    while start < len(sequence):
        _, end = _content(sequence, start)
        yield sequence[start:end]
        start = end


def _content(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the element at `start` begins and ends."""
    length = der[start + 1]
    begin = start + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[begin : begin + size], "big")
        begin += size
    return begin, begin + length
