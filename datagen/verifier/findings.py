"""What a verification finds: problems, each with its place, what was looked at, and what was
not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from datagen.errors import printable
from datagen.split import Split

# characters of a name or a value in a message; it comes from outside, and may be of any length
_SHOWN = 200


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it must be. `path` is relative to the dataset; `index` is a sample
    of the split.
    """

    kind: str
    path: str
    expected: str
    found: str
    task: str | None = None
    split: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        sample = (
            "" if self.index is None else f" sample {self.index:,} of {self.task}/{self.split}:"
        )
        path, expected, found = map(_shown, (self.path, self.expected, self.found))
        return f"{path}:{sample} {self.kind}: expected {expected}, found {found}"


@dataclass
class Findings:
    """What has been found so far, and what was looked at. `vouchers` are what vouches for the
    digits, if anything.
    """

    problems: list[Problem] = field(default_factory=list)
    samples: int = 0
    bytes: int = 0
    vouchers: list[str] = field(default_factory=list)
    not_looked_at: list[str] = field(default_factory=list)

    @property
    def stood_on(self) -> str:
        """What vouches for the digits, in words."""
        return ", ".join(self.vouchers) or "the dataset itself"

    def report(
        self, kind: str, path: str, expected: object, found: object, section: Split | None = None
    ) -> None:
        """Take down a problem of a file or a section."""
        task, split = (section.task, section.name) if section else (None, None)
        self.problems.append(Problem(kind, path, str(expected), str(found), task, split))

    def add(self, problems: Iterable[Problem]) -> None:
        """Take down problems."""
        self.problems.extend(problems)

    def skip(self, matter: str) -> None:
        """Take down, once, what is not looked at."""
        if matter not in self.not_looked_at:
            self.not_looked_at.append(matter)


def _shown(text: str) -> str:
    """Spell text of the dataset for a terminal: nothing that could steer one, and not too long."""
    return printable(
        text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
    )
