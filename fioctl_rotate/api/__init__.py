"""The client of the Factory's operator API."""
