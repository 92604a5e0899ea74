"""What the operator types: parse, call one function of ops, render."""
