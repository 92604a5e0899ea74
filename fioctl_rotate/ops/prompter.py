"""How an operation with the Factory's keys shows messages to the operator, and asks questions."""

from collections.abc import Callable
from dataclasses import dataclass


def _nobody(_text: str) -> None:
    """Show and ask nothing."""


@dataclass(frozen=True)
class Prompter:
    """`note` and `warn` show a message; `confirm` asks a question, and raises where the answer is no."""

    note: Callable[[str], None] = _nobody
    warn: Callable[[str], None] = _nobody
    confirm: Callable[[str], None] = _nobody


NOBODY = Prompter()
