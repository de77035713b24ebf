"""Signals that ask to stop: raised at once, noted between steps, or kept waiting while a process
starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_raised: list[int] = []  # signals for which a KeyboardInterrupt was raised


def raise_interrupts() -> None:
    """From now on, raise KeyboardInterrupt for SIGINT and SIGTERM, and know of it: libraries that
    are being loaded may drop it. A signal that is ignored, as in the background of a script, stays
    so.
    """
    _raised.clear()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def require_uninterrupted() -> None:
    """Raise KeyboardInterrupt where one was raised before, and was dropped."""
    if _raised:
        raise KeyboardInterrupt


def _raise(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    _raised.append(signum)
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Note whether SIGINT or SIGTERM came. A second one ends the work at once, without a
    checkpoint.

    A signal that is ignored stays so.
    """
    came: list[int] = []

    def note(signum: int, frame: object) -> None:  # noqa: ARG001  (a signal handler's signature)
        if came:
            raise KeyboardInterrupt
        came.append(signum)
        # This runs anywhere in the training: it must not raise because the reader was interrupted
        # too.
        with contextlib.suppress(OSError):
            os.write(2, b"\ninterrupted: writing a checkpoint\n")

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        require_uninterrupted()
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Signals wait for as long as this is open; a process that starts meanwhile keeps them
    waiting.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
