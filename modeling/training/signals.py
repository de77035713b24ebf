"""Handle SIGINT and SIGTERM: raise, end at once, note, or block while a process starts."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

from modeling.errors import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_raised: list[int] = []  # signals for which a KeyboardInterrupt was raised


def raise_interrupts() -> None:
    """Raise KeyboardInterrupt for SIGINT and SIGTERM from now on, and remember that it was raised.

    Libraries may swallow the exception while they are imported: see `require_uninterrupted`.
    Signals that are ignored, as in the background of a script, stay ignored.
    """
    _raised.clear()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def require_uninterrupted() -> None:
    """Raise KeyboardInterrupt again if one was raised before and was swallowed."""
    if _raised:
        raise KeyboardInterrupt


def _raise(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    _raised.append(signum)
    raise KeyboardInterrupt


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """End the process with exit code 130 if a signal of `raise_interrupts` comes during the body.

    It is for the import of libraries, before any work is done. Compiled code that calls Python
    there may drop an exception, or abort the process on one.
    """
    handled = [number for number in SIGNALS if signal.getsignal(number) is _raise]
    for number in handled:
        signal.signal(number, _end)
    try:
        require_uninterrupted()
        yield
    finally:
        for number in handled:
            signal.signal(number, _raise)


def _end(signum: int, frame: object) -> NoReturn:  # noqa: ARG001  (a signal handler's signature)
    with contextlib.suppress(OSError):  # the reader of stderr may be gone
        os.write(2, b"Error: interrupted\n")
    os._exit(INTERRUPTED)


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Give a function that returns whether SIGINT or SIGTERM came during the body.

    A second signal raises KeyboardInterrupt at once. Ignored signals stay ignored.
    """
    received: list[int] = []

    def note(signum: int, frame: object) -> None:  # noqa: ARG001  (a signal handler's signature)
        if received:
            raise KeyboardInterrupt
        received.append(signum)
        # the reader of stderr may be gone, which is no reason to fail anywhere in the training
        with contextlib.suppress(OSError):
            os.write(2, b"\ninterrupted: writing a checkpoint\n")

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        require_uninterrupted()
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM in the body; a process that starts in it inherits the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
