"""What a verification finds: problems, each with its place, what was looked at, and what was not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from datagen.stores import Section


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it must be. `path` is relative to the dataset; `index` is a sample of the split."""

    kind: str
    path: str
    expected: str
    found: str
    task: str | None = None
    split: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        sample = "" if self.index is None else f" sample {self.index:,} of {self.task}/{self.split}:"
        return f"{self.path}:{sample} {self.kind}: expected {self.expected}, found {self.found}"


@dataclass
class Findings:
    """What has been found so far, and what was looked at. `stood_on` says what vouches for the digits."""

    problems: list[Problem] = field(default_factory=list)
    samples: int = 0
    bytes: int = 0
    stood_on: str = "the dataset itself"
    not_looked_at: list[str] = field(default_factory=list)

    def report(self, kind: str, path: str, expected: object, found: object, section: Section | None = None) -> None:
        """Take down a problem of a file or a section."""
        task, split = (section.task, section.split) if section else (None, None)
        self.problems.append(Problem(kind, path, str(expected), str(found), task, split))

    def add(self, problems: Iterable[Problem]) -> None:
        """Take down problems."""
        self.problems.extend(problems)
