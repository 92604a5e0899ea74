"""The heart: the entry, the plan, the state of a rotation told from events. Pure: no network, disk or clock."""
