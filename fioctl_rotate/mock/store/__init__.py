"""The mock's state: the only modules with SQL, one for each kind of record."""
