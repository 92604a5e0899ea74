"""Rotate the client certificates of a FoundriesFactory fleet, and rehearse it on a mocked Factory."""

__version__ = "0.1.0"
