"""Signals that ask training to stop: noted between steps, or kept waiting while a process starts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM came. A second one ends the work at once, without a checkpoint."""
    came: list[int] = []

    def note(signum: int, frame: object) -> None:  # noqa: ARG001  (a signal handler's signature)
        if came:
            raise KeyboardInterrupt
        came.append(signum)
        # This runs anywhere in the training: it must not raise because the reader was interrupted too.
        with contextlib.suppress(OSError):
            os.write(2, b"\ninterrupted: writing a checkpoint\n")

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Signals wait for as long as this is open; a process that starts meanwhile keeps them waiting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
