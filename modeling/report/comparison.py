"""Runs side by side: their settings, and their scores over seeds.

Runs of one task with the same settings, scored on the same dataset, are one group.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from modeling.config import PRESETS
from modeling.errors import InputError
from modeling.metrics import overall_values
from modeling.report.records import RunRecords, damage_of, find_runs, read_run
from modeling.scoring.tables import REFERENCE, Rows, percent

_NO_SETTING = ("seed", "task")  # of a configuration: seeds are what a group spreads over
_LISTED = 10  # runs that a message names


@dataclass(frozen=True)
class Spread:
    """How a score spreads over `n` runs: shares, and their sample standard deviation.

    `sd` is None for one run.
    """

    n: int
    mean: float
    sd: float | None
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Measure some values.

        >>> Spread.of([0.5, 0.75])
        Spread(n=2, mean=0.625, sd=0.1767766952966369, least=0.5, most=0.75)
        """
        sd = statistics.stdev(values) if len(values) > 1 else None
        return cls(len(values), statistics.fmean(values), sd, min(values), max(values))


@dataclass(frozen=True)
class Group:
    """Runs of one task with the same settings, scored on one dataset.

    `settings` are those in which the groups of the task differ. `source` and `digest` are of the
    dataset. `seeds` and `runs`, their folders, are in the order given. `scores` has the spread of
    each score over all samples of the split.
    """

    task: str
    split: str
    source: str
    digest: str
    settings: dict[str, Any]
    seeds: list[int]
    runs: list[str]
    scores: dict[str, Spread]

    def to_json(self) -> dict[str, Any]:
        """Give the group as JSON values."""
        return asdict(self)


def compare(places: Iterable[PathLike[str] | str], split: str = "test") -> list[Group]:
    """Read the scores of runs, and group them: by task, in the order of the tasks, and settings.

    Each place is a run, or a folder of runs. Raises FormatError where there is no run, InputError
    where one is not scored on `split` or given twice, and DamagedError for a record that cannot be
    read.

    >>> (group,) = modeling.compare(["runs/circles"], "val")
    >>> group.task, group.seeds, group.scores["accuracy"].n
    ('circles', [0], 1)
    """
    folders = [folder for place in places for folder in find_runs(Path(place))]
    twice = sorted({str(each) for each in folders if folders.count(each) > 1})
    if twice:
        raise InputError("a run is given twice", found=", ".join(twice[:_LISTED]))
    records = [read_run(folder) for folder in folders]
    unscored = [each for each in records if split not in (each.scores or {}).get("splits", {})]
    if unscored:
        names = ", ".join(str(each.folder) for each in unscored[:_LISTED])
        more = f" and {len(unscored) - _LISTED} more" if len(unscored) > _LISTED else ""
        raise InputError(
            f"not scored on {split}: {names}{more}",
            remedy="score each first: modeling score RUN",
        )
    return [group for task in PRESETS for group in _groups(task, split, records)]


def rows(groups: Sequence[Group]) -> Rows:
    """List the main scores of groups of one task: settings, score, runs, mean and spread."""
    table = [["settings", "score", "runs", "mean", "sd", "least", "most"]]
    for group in groups:
        named = [name for name in REFERENCE[group.task] if name in group.scores]
        for number, name in enumerate(named):
            each = group.scores[name]
            spread = ["", "", ""]
            if each.sd is not None:
                spread = [f"{100 * each.sd:.3f}", percent(each.least), percent(each.most)]
            first = [settings_text(group.settings) if number == 0 else "", name]
            table.append([*first, str(each.n), percent(each.mean), *spread])
    return table


def settings_text(settings: dict[str, Any]) -> str:
    """Write settings as `--set` takes them.

    >>> settings_text({"steps": 900, "channels": [4, 8]}), settings_text({})
    ('steps=900 channels=4,8', 'the same')
    """
    written = (
        f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in settings.items()
    )
    return " ".join(written) or "the same"


def _groups(task: str, split: str, records: Sequence[RunRecords]) -> list[Group]:
    """Group the runs of a task by their settings and by what they were scored on."""
    found: dict[tuple[str, str], list[RunRecords]] = {}
    for each in records:
        if each.task == task and each.scores is not None:
            settings = json.dumps(_settings(each), sort_keys=True)
            found.setdefault((settings, each.scores["dataset"]["digest"]), []).append(each)
    configs = [_settings(group[0]) for group in found.values()]
    differing = {
        name
        for config in configs
        for name in config
        if any(other.get(name) != config[name] for other in configs)
    }
    return [_group(task, split, group, differing) for group in found.values()]


def _group(task: str, split: str, records: Sequence[RunRecords], differing: set[str]) -> Group:
    values: dict[str, list[float]] = {}
    for each in records:
        assert each.scores is not None
        with damage_of(each.folder):
            for name, value in overall_values(each.scores["splits"][split]["scores"]).items():
                if value is not None:
                    values.setdefault(name, []).append(value)
    scores, first = records[0].scores, _settings(records[0])
    assert scores is not None
    return Group(
        task,
        split,
        scores["dataset"]["source"],
        scores["dataset"]["digest"],
        {name: value for name, value in first.items() if name in differing},
        [int(each.config.get("seed", 0)) for each in records],
        [str(each.folder) for each in records],
        {name: Spread.of(each) for name, each in values.items()},
    )


def _settings(records: RunRecords) -> dict[str, Any]:
    return {name: value for name, value in records.config.items() if name not in _NO_SETTING}
