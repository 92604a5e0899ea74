"""The heart: the entry, the plan, and the state of a rotation from its events. Pure: no network, disk or clock."""
