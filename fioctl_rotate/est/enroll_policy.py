"""Whom an EST server's `simpleenroll` serves. RFC 7030 §4.2.1 leaves it to the server."""

from enum import StrEnum


class Enroll(StrEnum):
    """What the holder of a client certificate gets."""

    OWN = "own"  # a certificate for its own subject
    ANY = "any"  # one for the subject that it asks for, as estserver does
    OFF = "off"
