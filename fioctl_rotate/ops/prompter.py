"""Who is told and asked while an operation with the Factory's keys runs."""

from collections.abc import Callable
from dataclasses import dataclass


def _nobody(_text: str) -> None:
    """Say and ask nothing."""


@dataclass(frozen=True)
class Prompter:
    """`note` and `warn` tell something; `confirm` asks, and raises where the answer is no."""

    note: Callable[[str], None] = _nobody
    warn: Callable[[str], None] = _nobody
    confirm: Callable[[str], None] = _nobody


NOBODY = Prompter()
