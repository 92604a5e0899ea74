"""Enrollment over Secure Transport (RFC 7030): client, probe and server."""
