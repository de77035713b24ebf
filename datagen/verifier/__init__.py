"""Verifies a dataset: re-derives every claim of its manifest from the bytes on disk.

The images come from the source if it is at hand, else from the dataset itself. Every sample is
derived from them again, and what is stored must equal it byte for byte. All problems are collected;
none is repaired.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen import assembly, builder, plans, recipe
from datagen.dataset import Dataset
from datagen.engines import threads
from datagen.errors import DatagenError, InputError, RecipeError, SourceError, StorageError
from datagen.layout import MANIFEST, SPLITS
from datagen.shards import Shard
from datagen.stores import Section
from datagen.tasks import TASKS, Deriver, Inputs
from datagen.verifier.content import StoredInputs, check_samples, check_shard, read_inputs
from datagen.verifier.duplicates import equal_digits, equal_mosaics
from datagen.verifier.problems import UNREADABLE, Outcome, Problem, unreadable
from datagen.verifier.structure import Structure, check_structure
from datagen.verifier.views import check_views, limits_of_views

__all__ = ["Problem", "Verdict", "verify"]

_SOURCE = "the source"
_DISTINCT = "whether all images are distinct"
_QUICK = Outcome(
    skipped=(
        "the bytes of the shards",
        "whether the samples follow from the images",
        _DISTINCT,
    )
)


@dataclass(frozen=True)
class Verdict:
    """Result of a verification: the dataset is as its manifest says if `problems` is empty.

    `level` is "full", "quick", or the sample that was checked. `samples` were derived again and
    compared, `bytes` of samples were read. `checked_against` names the source or the digest that
    the data agree with, or "the dataset itself"; `skipped` says what was not checked.
    """

    digest: str
    level: str
    problems: tuple[Problem, ...]
    samples: int
    bytes: int
    seconds: float
    checked_against: str
    skipped: tuple[str, ...]


def verify(
    root: Path | str,
    *,
    source_dir: Path | str | None = None,
    source_optional: bool = False,
    quick: bool = False,
    sample: int | None = None,
    seed: int = 0,
    expect: str | None = None,
    workers: int = 1,
    progress: assembly.Progress | None = None,
) -> Verdict:
    """Verify the dataset in `root`: in full, or `quick`, or quick with `sample` random samples.

    The full level compares the images with the source, if it is at hand. `source_dir` is where the
    source must be; with `source_optional`, a folder without it is skipped. `seed` chooses the
    samples. `expect` is the dataset digest that the manifest must have. `progress` is called with
    the bytes checked and their total.

    Raises what `Dataset` raises: without a manifest there are no claims. Raises RecipeError if
    `expect` is no digest, and InputError or SourceError if the source is not in `source_dir`.

    >>> verdict = verify("data/mnist")  # doctest: +SKIP
    >>> verdict.problems, verdict.checked_against  # doctest: +SKIP
    ((), 'the digest published for this recipe, the source')
    """
    started = time.perf_counter()
    if expect is not None and not re.fullmatch("[0-9a-fA-F]{64}", expect):
        raise RecipeError(
            "not a dataset digest", expected="64 hexadecimal digits", found=repr(expect)
        )
    dataset = Dataset(root)
    full = not quick and sample is None
    digests = {
        "the digest published for this recipe": recipe.known_digest(dataset.manifest.recipe),
        "the digest expected": expect.lower() if expect else None,
    }
    source, origin = None, Outcome()
    if full:
        source, origin = _find_source(
            dataset, source_dir, optional=source_optional, workers=workers
        )
    structure = check_structure(dataset)
    if sample is not None:
        level = f"sample of {sample:,} (seed {seed})"
        content = _check_sample(dataset, structure.readable, sample, seed, workers)
    elif quick:
        level, content = "quick", _QUICK
    else:
        level = "full"
        content = _check_all(dataset, structure, source, workers, progress)
    against = [name for name, digest in digests.items() if digest == dataset.manifest.digest]
    against += [_SOURCE] if source else []
    total = Outcome.merge(
        [
            Outcome(tuple(_check_digest(dataset, digests))),
            origin,
            Outcome(structure.problems, structure.skipped),
            content,
            Outcome(skipped=tuple(limits_of_views(dataset, checked=full))),
            Outcome(skipped=tuple(_limits_of_knowledge(against))),
        ]
    )
    return Verdict(
        digest=dataset.manifest.digest,
        level=level,
        problems=tuple(
            sorted(total.problems, key=lambda one: (one.path, one.index or 0, one.kind))
        ),
        samples=total.samples,
        bytes=total.bytes,
        seconds=time.perf_counter() - started,
        checked_against=", ".join(against) or "the dataset itself",
        skipped=total.skipped,
    )


def _check_digest(dataset: Dataset, digests: Mapping[str, str | None]) -> Iterator[Problem]:
    """Compare the dataset digest with those published or expected; None stands for unknown."""
    found = dataset.manifest.digest
    for name, digest in digests.items():
        if digest not in (None, found):
            yield Problem(f"not {name}", MANIFEST, str(digest), found)


def _limits_of_knowledge(against: Collection[str]) -> Iterator[str]:
    """Say what cannot be known without the source, or without a digest."""
    if not against:
        yield (
            "whether these are the images of the source, with its labels: "
            "give --source-dir or --expect"
        )
    if _SOURCE not in against:
        yield "what the manifest says of its source: names, licence, duplicates that were dropped"


# The source.


def _find_source(
    dataset: Dataset, source_dir: Path | str | None, *, optional: bool, workers: int
) -> tuple[builder.Resolved | None, Outcome]:
    """Look for the source in `source_dir`, else where it is at hand; ask no mirror.

    Raises InputError, SourceError or StorageError if it is not in `source_dir`, unless `optional`.
    """
    name = dataset.manifest.recipe.source
    if source_dir is not None:
        try:
            source, outcome = _compare_source(dataset, source_dir, workers)
        except (InputError, SourceError, StorageError):
            if not optional:
                raise
        else:
            if optional and outcome.problems and name not in builder.EMBEDDED_OR_PINNED:
                (other,) = outcome.problems
                sides = f"expected {other.expected}, found {other.found}"
                skipped = f"the source in {source_dir}, which is another: {sides}"
                return None, Outcome(skipped=(skipped,))
            return source, outcome
    if not builder.is_at_hand(name):
        return None, Outcome()
    try:
        return _compare_source(dataset, None, workers)
    except (InputError, SourceError, StorageError) as error:
        return None, Outcome(skipped=(f"the source: {error.problem}",))


def _compare_source(
    dataset: Dataset, source_dir: Path | str | None, workers: int
) -> tuple[builder.Resolved | None, Outcome]:
    """Load the source and compare what it gives with the manifest; None if it is another."""
    recorded, stated = dataset.manifest.recipe, plans.plan_of(dataset.manifest)
    try:
        source = builder.resolve(recorded, directory=source_dir, workers=workers, offline=True)
    except RecipeError as error:  # the source cannot give what the recipe asks for
        expected, found = "the source it was built from", str(error)
    else:
        if source.plan == stated:
            return source, Outcome()
        expected, found = plans.difference(stated, source.plan)
    return None, Outcome((Problem("another source", MANIFEST, expected, found),))


# The full level.


def _check_all(
    dataset: Dataset,
    structure: Structure,
    source: builder.Resolved | None,
    workers: int,
    progress: assembly.Progress | None,
) -> Outcome:
    """Read every byte, derive every sample, and look for equal images.

    The images are those of `source`, else those that the dataset stores.
    """
    readable = structure.readable
    if source:
        stored: dict[str, StoredInputs] = {}
        inputs = {split: source.inputs(split) for split in SPLITS}
    else:
        splits = SPLITS if readable else ()
        stored = {split: read_inputs(dataset, split, readable, workers) for split in splits}
        inputs = _inputs(stored)
    derivers, short = _derivers(readable, inputs)
    checked = _check_shards(dataset, readable, derivers, workers, progress)
    whole = [shard for shard in readable if not checked[shard].problems]
    comparable = [shard for shard in readable if _is_comparable(shard, checked[shard])]
    mosaics = [shard for shard in comparable if shard.section.task == "mosaics"]
    wrong_paths = {problem.path for problem in structure.problems}
    skipped = []
    if len(comparable) < sum(section.shards for section in dataset.sections.values()):
        skipped.append("samples of shards that are not as the manifest says")
    if inputs.keys() < set(SPLITS) or any(
        shard.section.task == "mosaics" and shard.section not in derivers for shard in readable
    ):
        skipped.append(_DISTINCT)
    return Outcome.merge(
        [
            *(Outcome(one.labels, one.skipped) for one in stored.values()),
            Outcome(skipped=short),
            *checked.values(),
            check_views(dataset, whole, wrong_paths),
            Outcome(skipped=tuple(skipped)),
            Outcome(tuple(equal_digits(inputs))),
            Outcome(tuple(_check_mosaics(dataset, mosaics))),
        ]
    )


def _check_shards(
    dataset: Dataset,
    readable: Sequence[Shard],
    derivers: Mapping[Section, Deriver],
    workers: int,
    progress: assembly.Progress | None,
) -> dict[Shard, Outcome]:
    """Check all shards in threads, the largest first."""
    total, done = sum(job.bytes for job in readable), 0
    checked: dict[Shard, Outcome] = {}
    for job, outcome in threads.run(
        lambda job, slot: check_shard(dataset, job, derivers.get(job.section), slot),
        sorted(readable, key=lambda job: -job.bytes),
        workers=workers,
    ):
        checked[job] = outcome
        done += outcome.bytes
        if progress is not None:
            progress(done, total)
    return checked


def _is_comparable(shard: Shard, outcome: Outcome) -> bool:
    """Say whether a shard's samples were read: compressed ones are not if anything is wrong."""
    if shard.section.compression != "none":
        return not outcome.problems
    return all(problem.kind != UNREADABLE for problem in outcome.problems)


def _check_mosaics(dataset: Dataset, shards: Sequence[Shard]) -> Iterator[Problem]:
    """Find mosaics that occur twice; report a shard that cannot be read any more."""
    try:
        yield from equal_mosaics(dataset, shards)
    except (DatagenError, OSError) as error:
        yield unreadable(dataset, shards[0].section, error)


# A sample.


def _check_sample(
    dataset: Dataset, readable: Sequence[Shard], number: int, seed: int, workers: int
) -> Outcome:
    """Derive randomly chosen samples again, from the images that the dataset stores."""
    chosen = _choose(readable, number, seed)
    splits = dict.fromkeys(shard.section.split for shard in chosen)
    stored = {split: read_inputs(dataset, split, readable, workers) for split in splits}
    derivers, short = _derivers(readable, _inputs(stored))
    return Outcome.merge(
        [
            Outcome(skipped=("all other samples", "the digests of the shards", _DISTINCT)),
            *(Outcome(one.damage + one.labels, one.skipped) for one in stored.values()),
            Outcome(skipped=short),
            *(
                check_samples(dataset, shard, derivers[shard.section], samples)
                for shard, samples in chosen.items()
                if shard.section in derivers
            ),
        ]
    )


def _choose(readable: Sequence[Shard], number: int, seed: int) -> dict[Shard, list[int]]:
    """Choose samples at random among all that can be read: shard -> samples, ascending."""
    total = sum(len(shard.samples) for shard in readable)
    left = sorted(random.Random(seed).sample(range(total), min(number, total)), reverse=True)
    chosen: dict[Shard, list[int]] = {}
    first = 0
    for shard in readable:
        while left and left[-1] < first + len(shard.samples):
            chosen.setdefault(shard, []).append(shard.samples[left.pop() - first])
        first += len(shard.samples)
    return chosen


# Inputs of both levels.


def _inputs(stored: Mapping[str, StoredInputs]) -> dict[str, Inputs]:
    return {split: one.inputs for split, one in stored.items() if one.inputs is not None}


def _derivers(
    readable: Sequence[Shard], inputs: Mapping[str, Inputs]
) -> tuple[dict[Section, Deriver], tuple[str, ...]]:
    """Make the function that derives the samples of each section; list those short of memory."""
    derivers: dict[Section, Deriver] = {}
    skipped: list[str] = []
    for section in dict.fromkeys(shard.section for shard in readable):
        if section.task in TASKS and section.split in inputs:
            try:
                derivers[section] = TASKS[section.task].deriver(inputs[section.split])
            except MemoryError:
                skipped.append(
                    f"whether the samples of {section.folder} follow from the images: "
                    "memory is too short"
                )
    return derivers, tuple(skipped)
