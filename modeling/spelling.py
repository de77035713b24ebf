"""Shares and times as people read them, on a terminal and on a page."""

from __future__ import annotations


def percent(share: float | None, decimals: int = 3) -> str:
    """A share as a percentage of so many decimals, such as 99.631%; nothing for None."""
    return "" if share is None else f"{share:.{decimals}%}"


def duration(seconds: float) -> str:
    """A time in minutes and seconds, and hours where there are any: 2:05, or 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
