"""Findings that checks yield, problems, samples compared and matters skipped; and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datagen.errors import DatagenError, printable
from datagen.files import require_enough
from datagen.split import Split

UNREADABLE = "unreadable"  # the kind of a problem where something could not be read

_SHOWN = 200  # characters of a name or value in a message; a dataset may hold any length


@dataclass(frozen=True)
class Problem:
    """One contradiction between a dataset and its manifest.

    `path` is relative to the dataset; `index` is a sample of `split`, None for a whole file.
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
        path, expected, found = map(_shortened, (self.path, self.expected, self.found))
        return f"{path}:{sample} {self.kind}: expected {expected}, found {found}"


@dataclass(frozen=True)
class Skipped:
    """Something that is not checked, in words."""

    matter: str


@dataclass(frozen=True)
class Compared:
    """Samples that were derived again and compared, and the bytes of samples that were read."""

    samples: int
    bytes: int


@dataclass(frozen=True)
class Near:
    """Names an image of `split`, and one of `other` that is nearly the same.

    `bits` is in how many bits their hashes differ, `likeness` their correlation in thousandths.
    """

    split: str
    row: int
    other: str
    other_row: int
    bits: int
    likeness: int

    def __str__(self) -> str:
        places = f"{self.split} {self.row:,} and {self.other} {self.other_row:,}"
        return f"{places} are nearly the same image (likeness 0.{self.likeness:03})"


@dataclass(frozen=True)
class NearDuplicates:
    """Counts the near pairs, and holds the likest; they are not all if `complete` is false."""

    count: int
    pairs: tuple[Near, ...]
    complete: bool


Finding = Problem | Skipped | Compared | NearDuplicates


def problem_in(
    split: Split | None,
    kind: str,
    path: str,
    expected: object,
    found: object,
    index: int | None = None,
) -> Problem:
    """Make a problem of a split, of one of its files, or of its sample `index`."""
    task, name = (split.task, split.name) if split else (None, None)
    return Problem(kind, path, str(expected), str(found), task, name, index)


def unreadable(root: Path, split: Split, error: DatagenError | OSError) -> Problem:
    """Turn an error of reading a split's file into a problem.

    Raises StorageError if the process ran out of files or memory: that is not the file's fault.
    """
    require_enough(error)
    if isinstance(error, DatagenError):
        place, found = error.path, error.problem
    else:
        place, found = error.filename, error.strerror or str(error)
    path = Path(place or root)
    inside = path.is_relative_to(root) and path != root
    relative = path.relative_to(root).as_posix() if inside else split.folder
    return problem_in(split, UNREADABLE, relative, "what was written", found)


def _shortened(text: str) -> str:
    """Escape text of the dataset for a terminal, and cut it to a length that can be read."""
    return printable(
        text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"
    )


@dataclass(frozen=True)
class Verdict:
    """Result of a verification: the dataset is as its manifest says if `problems` is empty.

    `level` is "full", "quick", or the sample that was checked. `samples` were derived again and
    compared, `bytes` of samples were read. `checked_against` names the source or the digest that
    the data agree with, or "the dataset itself"; `skipped` says what was not checked. `near` has
    the images of two splits that are nearly the same, if they were looked for; they are no problem.
    """

    digest: str
    level: str
    problems: tuple[Problem, ...]
    samples: int
    bytes: int
    seconds: float
    checked_against: str
    skipped: tuple[str, ...]
    near: NearDuplicates | None = None

    @property
    def wrong_at_most(self) -> float | None:
        """Bound the share of wrong samples, at 95% confidence, by a sample without any; else None.

        If a share p is wrong, n random samples show none with a probability of (1 - p)^n. That is
        5% for p = 1 - 0.05^(1/n), about 3/n: the rule of three (Hanley and Lippman-Hand, JAMA 1983)
        for a dataset of any size.
        """
        if not self.level.startswith("sample") or self.problems or not self.samples:
            return None
        return float(1 - 0.05 ** (1 / self.samples))

    def __repr__(self) -> str:
        """Name the level, the number of problems and the first few of them."""
        count = len(self.problems)
        found = f"{count:,} problem{'s' * (count != 1)}" if count else "no problems"
        done = f"{self.level}: {self.samples:,} samples, digest {self.digest[:12]}"
        first = [f"\n  {str(problem)[:200]}" for problem in self.problems[:5]]
        more = ["\n  ..."] if count > len(first) else []
        return f"<Verdict: {found}; {done}{''.join(first + more)}>"
