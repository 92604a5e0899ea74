"""The rule for host names in ASCII form, for URLs and certificates alike."""

import re

LONGEST = 253
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")


def host_name_fault(name: str, *, underscore: bool = False) -> str | None:
    """What is wrong with `name` as a DNS name of a server, or None. RFC 1123 §2.1, RFC 5280 §4.2.1.6.

    Host names have no underscore, but TLS libraries accept one: a URL may have it, a new certificate may not.
    """
    if "*" in name:
        return "a wildcard, which devices' TLS libraries judge differently"
    if not name.isascii():
        return "not in its ASCII form (xn--…)"
    if name.endswith("."):
        return "ends in a dot"
    if len(name) > LONGEST:
        return f"longer than {LONGEST} characters"
    labels = name.split(".")
    for label in labels:
        if len(label) > 63:
            return "a label longer than 63 characters"
        if not _LABEL.fullmatch(label) or ("_" in label and not underscore):
            return "not a host name"
    if labels[-1].isdigit():
        return "its last label is a number, as in an IP address"
    return None
