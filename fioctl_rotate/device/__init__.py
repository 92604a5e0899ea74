"""A device as fioconfig runs it."""
