"""One sample of a finished dataset: as it is stored, or derived anew from the images that are
stored with it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from datagen import builder
from datagen.dataset import Dataset
from datagen.errors import DamagedError, StorageError
from datagen.picks import Sample
from datagen.split import Shard, Split
from datagen.tasks import Inputs, as_indices, find
from datagen.verifier.digits import stored_inputs
from datagen.verifier.findings import Findings
from datagen.verifier.reading import ShardReader
from datagen.verifier.samples import damaged

_OWNERS = ("foreground", "circles")  # tasks that store the images, and their labels


def stored(dataset: Dataset, task: str, split: str, index: int) -> Sample:
    """Read a sample as it is stored: column name -> array of the shape of one sample.

    Raises RecipeError where the dataset has none such, DamagedError where it cannot be read.
    """
    section = builder.split_of_sample(dataset.splits.values(), task, split, index)
    return {
        one.name: dataset.rows(task, split, one.name, index, index + 1)[0]
        for one in section.columns
    }


def damage(dataset: Dataset, task: str, split: str, index: int) -> DamagedError | None:
    """Find a file of the shard that holds a stored sample which is not as it was written; None
    where all are.
    """
    section = dataset.splits[task, split]
    job = Shard(section, index // section.shard_size)
    with ShardReader(dataset, job) as reader:
        problem = next(damaged(dataset, job, reader), None)
    if problem is None:
        return None
    return DamagedError(
        "the file is not as it was written, so the sample may not be either",
        path=dataset.root / problem.path,
        expected=problem.expected,
        found=problem.found,
        remedy="'datagen verify' says which samples are wrong, 'datagen build' writes the file anew",
    )


def derived(dataset: Dataset, task: str, split: str, index: int) -> Sample:
    """Derive a sample from the images and labels that the dataset itself stores; no source is asked
    for.

    Raises RecipeError where there is none such, or where the task is not known here, DamagedError
    where the images are not as they were written, StorageError where memory is too short for those
    of the split.
    """
    section = builder.split_of_sample(dataset.splits.values(), task, split, index)
    kind = find(task)
    _require_due(dataset, task, split)
    out = {one.name: np.empty((1, *one.shape), one.dtype) for one in section.columns}
    kind.deriver(_inputs(dataset, split))(as_indices([index]), out)
    return {name: block[0] for name, block in out.items()}


def _require_due(dataset: Dataset, task: str, split: str) -> None:
    """Raise DamagedError where the manifest's sections are not those that its recipe and its source
    ask for.
    """
    manifest = dataset.manifest
    tasks = tuple(dict.fromkeys((*_OWNERS, task)))
    due = builder.splits(replace(manifest, recipe=replace(manifest.recipe, tasks=tasks)))
    for section in due:
        there = dataset.splits.get((section.task, section.name))
        if section.name == split and (there is None or section.declared != there.declared):
            raise DamagedError(
                f"the columns of {section.folder} are not those of the task that is known here",
                path=dataset.root,
                expected=_spelled(section),
                found="none" if there is None else _spelled(there),
                remedy="see 'datagen verify'",
            )


def _spelled(section: Split) -> str:
    columns = ", ".join(f"{one.name} {one.dtype} {list(one.shape)}" for one in section.columns)
    return f"{section.count:,} samples of {columns}"


def _inputs(dataset: Dataset, split: str) -> Inputs:
    for task in _OWNERS:
        dataset.table(task, split)  # whose size bears out how many shards there are
    sections = [dataset.splits[task, split] for task in _OWNERS]
    readable = {Shard(section, shard) for section in sections for shard in range(section.shards)}
    findings = Findings()
    inputs = stored_inputs(dataset, split, readable, 1, findings, tell=True)
    unknown = [problem for problem in findings.problems if problem.kind == "unknown class"]
    if inputs is not None and not unknown:
        return inputs
    if findings.problems:
        problem = (unknown or findings.problems)[0]
        raise DamagedError(
            f"the images and labels of {split} are damaged: {problem.kind}",
            path=dataset.root / problem.path,
            expected=problem.expected,
            found=problem.found,
            remedy="see 'datagen verify'",
        )
    raise StorageError(
        f"memory is too short for the images of {split}",
        path=dataset.root,
        remedy="use a machine with more memory",
    )
