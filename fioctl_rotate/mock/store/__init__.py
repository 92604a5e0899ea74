"""The mock's state: the only rooms with SQL. Each holds what belongs to one kind of record."""
