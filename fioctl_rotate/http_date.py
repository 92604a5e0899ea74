"""Times in HTTP headers."""

import datetime
import email.utils


def parse_http_date(text: str) -> datetime.datetime | None:
    """The time in `text`, aware; None where it is not valid.

    HTTP's dates end in GMT (RFC 9110 §5.6.7), those of Go's time.RFC1123 in UTC.
    """
    try:
        parsed = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError, TypeError, IndexError):  # the parser is not made for foreign text
        return None
    return parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=datetime.UTC)
