"""The signals that end a program, and how they are handled while a block runs."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from fioctl_rotate.errors import Stopped


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], object], numbers: Iterable[int]) -> Iterator[None]:
    """Call `handler` for these signals while the block runs; afterwards they are handled as before.

    Python allows that in the main thread only. In another thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While the block runs, SIGINT may be handled in another way; afterwards it is handled as before."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is not before:
            signal.signal(signal.SIGINT, before)


def not_ignored() -> list[signal.Signals]:
    """Those of SIGINT, SIGTERM and SIGHUP that this process does not ignore. `nohup` makes it ignore SIGHUP."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in ending if signal.getsignal(number) is not signal.SIG_IGN]


def ended_by(number: int) -> BaseException:
    """What a command raises when this signal ends it: KeyboardInterrupt for SIGINT, else Stopped."""
    return KeyboardInterrupt() if number == signal.SIGINT else Stopped(number)
