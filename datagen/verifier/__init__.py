"""Verifies a dataset: re-derives every claim of its manifest from the bytes on disk.

The images come from the source if it is at hand, else from the dataset itself. Every sample is
derived from them again, and what is stored must equal it byte for byte. All problems are collected;
none is repaired.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from os import PathLike
from pathlib import Path

from datagen import planning, recipe
from datagen.dataset import Dataset, Place
from datagen.decoding import shown
from datagen.engines import Engine, Progress, run_shards
from datagen.engines.threads import Slot, Threads
from datagen.errors import DatagenError, InputError, RecipeError, SourceError, StorageError, worded
from datagen.layout import MANIFEST, SPLITS
from datagen.manifest import difference, require_digest
from datagen.objects import Remote, is_url
from datagen.split import Shard, Split
from datagen.tasks import TASKS, Deriver, Inputs, files_of, know
from datagen.verifier.across import (
    check_groups,
    check_names,
    check_views,
    compare_names,
    equal_digits,
    equal_mosaics,
    limits_of_views,
)
from datagen.verifier.content import (
    CheckShards,
    StoredInputs,
    check_samples,
    check_shard,
    read_inputs,
    same_inputs,
)
from datagen.verifier.mirror import check_strangers, opened
from datagen.verifier.near import near_duplicates
from datagen.verifier.problems import (
    UNREADABLE,
    Compared,
    Finding,
    NearDuplicates,
    Problem,
    Skipped,
    Verdict,
    unreadable,
)
from datagen.verifier.structure import Structure, check_structure

__all__ = ["Problem", "Verdict", "verify"]

_SOURCE = "the source"
_DISTINCT = Skipped("whether all images are distinct")
_QUICK = (
    Skipped("the bytes of the shards"),
    Skipped("whether the samples follow from the images"),
    _DISTINCT,
)
_NEAR = "whether images of two splits are nearly the same"
_SAMPLE = (Skipped("all other samples"), Skipped("the digests of the shards"), _DISTINCT)


def verify(
    root: PathLike[str] | str,
    *,
    source_dir: Path | str | None = None,
    labels: Path | str | None = None,
    source_optional: bool = False,
    quick: bool = False,
    sample: int | None = None,
    seed: int | None = None,
    expect: str | None = None,
    near: bool = False,
    workers: int = 1,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Verify the dataset in `root`: in full, or `quick`, or quick with `sample` random samples.

    `root` may be a URL: then only small files are fetched at first, and each shard for as long as
    it is read, into a temporary folder.
    The full level compares the images with the source, if it is at hand. `source_dir` is where the
    source must be, `labels` the CSV file of its labels; with `source_optional`, a folder without it
    is skipped. `seed` chooses the samples; without it each call chooses others. `expect` is the
    dataset digest that the manifest must have. With `near` the full level looks for images of two
    splits that are nearly the same. `engine` runs the jobs of the full level, by default `workers`
    threads here. `progress` is called with the bytes checked and their total.

    Raises what `Dataset` raises: without a manifest there are no claims. Raises RecipeError if
    `expect` is no digest, InputError if the arguments contradict each other, and InputError or
    SourceError if the source is not in `source_dir`.

    >>> verdict = verify("data/mnist")  # doctest: +SKIP
    >>> verdict.problems, verdict.checked_against  # doctest: +SKIP
    ((), 'the digest published for this recipe, the source')
    """
    started = time.perf_counter()
    remote = Remote(root) if is_url(root) else None  # first: no error below shows a bad URL
    _require_one_level(quick, sample, seed, None if source_optional else source_dir)
    if near and (quick or sample is not None):
        raise InputError("quick and sample do not compare images", remedy="leave out near")
    require_digest(expect)
    engine = engine or Threads(workers)
    if remote is not None and engine.is_remote:
        raise InputError(
            "other processes verify folders that they see, not URLs",
            path=remote.url,
            remedy="leave out the engine, or pull the dataset first",
        )
    with opened(root if remote is None else remote) as dataset:
        against, findings = _check_digest(dataset, expect)
        structure = check_structure(dataset)
        findings += [*structure.problems, *structure.skipped, *check_names(dataset)]
        findings += check_strangers(dataset)
        if sample is not None:
            seed = secrets.randbits(32) if seed is None else seed
            level = f"sample of {sample:,} (seed {seed})"
            findings += _check_sample(dataset, structure.readable, sample, seed, workers)
            findings += check_groups(dataset, {})
        elif quick:
            level = "quick"
            findings += [*_QUICK, *check_groups(dataset, {})]
        else:
            level = "full"
            source, problems = _find_source(
                dataset, source_dir, labels, optional=source_optional, workers=workers
            )
            against += [_SOURCE] if source else []
            findings += problems
            findings += _check_all(dataset, structure, source, near, workers, engine, progress)
        findings += limits_of_views(dataset, checked=level == "full")
        findings += _limits_of_knowledge(against)
        return _add_up(dataset, level, against, findings, time.perf_counter() - started)


def _require_one_level(
    quick: bool, sample: int | None, seed: int | None, source_dir: Path | str | None
) -> None:
    """Raise InputError if an argument would be ignored, or is no number."""
    if sample is not None and not (isinstance(sample, Integral) and sample >= 1):
        raise InputError(
            "not a number of samples to check", expected="1 or more", found=shown(sample)
        )
    if seed is not None and not isinstance(seed, Integral):
        raise InputError("not a seed", expected="an integer", found=shown(seed))
    if quick and sample is not None:
        raise InputError("quick and sample exclude each other", remedy="leave one out")
    if source_dir is not None and (quick or sample is not None):
        raise InputError(
            "quick and sample do not look at the source", remedy="leave out source_dir"
        )
    if seed is not None and sample is None:
        raise InputError("seed chooses the samples of sample", remedy="give both")


def _add_up(
    dataset: Dataset,
    level: str,
    against: Sequence[str],
    findings: Sequence[Finding],
    seconds: float,
) -> Verdict:
    """Sort the problems by path, count the samples, and list once what was skipped."""
    problems = [one for one in findings if isinstance(one, Problem)]
    compared = [one for one in findings if isinstance(one, Compared)]
    skipped = [one.matter for one in findings if isinstance(one, Skipped)]
    return Verdict(
        digest=dataset.manifest.digest,
        level=level,
        problems=tuple(sorted(problems, key=lambda one: (one.path, one.index or 0, one.kind))),
        samples=sum(one.samples for one in compared),
        bytes=sum(one.bytes for one in compared),
        seconds=seconds,
        checked_against=", ".join(against) or "the dataset itself",
        skipped=tuple(dict.fromkeys(skipped)),
        near=next((one for one in findings if isinstance(one, NearDuplicates)), None),
    )


def _check_digest(dataset: Dataset, expect: str | None) -> tuple[list[str], list[Finding]]:
    """Compare the dataset digest with the one published and the one expected, if there are any.

    Gives the names of those that it agrees with, and the problems.
    """
    found = dataset.manifest.digest
    digests = {
        "the digest published for this recipe": recipe.known_digest(dataset.manifest.recipe),
        "the digest expected": expect and expect.lower(),
    }
    known = {name: digest for name, digest in digests.items() if digest}
    return [name for name, digest in known.items() if digest == found], [
        Problem(f"not {name}", MANIFEST, digest, found)
        for name, digest in known.items()
        if digest != found
    ]


def _limits_of_knowledge(against: Collection[str]) -> Iterator[Skipped]:
    """Say what cannot be known without the source, or without a digest."""
    if not against:
        yield Skipped(
            worded(
                "whether these are the images of the source, with its labels: "
                "give --source-dir or --expect (source_dir=, expect=)"
            )
        )
    if _SOURCE not in against:
        yield Skipped(
            "what the manifest says of its source: names, licence, duplicates that were dropped"
        )


# The source.


def _find_source(
    dataset: Dataset,
    source_dir: Path | str | None,
    labels: Path | str | None,
    *,
    optional: bool,
    workers: int,
) -> tuple[planning.Resolved | None, Sequence[Finding]]:
    """Look for the source in `source_dir`, else where it is at hand; ask no mirror.

    Raises InputError, SourceError or StorageError if it is not in `source_dir`, unless `optional`.
    """
    name = dataset.manifest.recipe.source
    if source_dir is not None:
        try:
            source, problems = _compare_source(dataset, source_dir, labels, workers)
        except (InputError, SourceError, StorageError):
            if not optional:
                raise
        else:
            if source or not optional or planning.is_pinned(name):
                return source, problems
            sides = f"expected {problems[0].expected}, found {problems[0].found}"
            return None, [Skipped(f"the source in {source_dir}, which is another: {sides}")]
    if not planning.is_at_hand(name):
        return None, []
    try:
        return _compare_source(dataset, None, None, workers)
    except (InputError, SourceError, StorageError) as error:
        return None, [Skipped(f"the source: {error.problem}")]


def _compare_source(
    dataset: Dataset, source_dir: Path | str | None, labels: Path | str | None, workers: int
) -> tuple[planning.Resolved | None, list[Problem]]:
    """Load the source and compare what it gives with the manifest; None if it is another."""
    recorded, stated = dataset.manifest.recipe, dataset.manifest.plan
    try:
        source = planning.resolve(
            recorded, directory=source_dir, labels=labels, workers=workers, offline=True
        )
    except RecipeError as error:  # the source cannot give what the recipe asks for
        expected, found = "the source it was built from", str(error)
    else:
        if source.plan == stated:
            return source, []
        expected, found = difference(stated, source.plan)
    return None, [Problem("another source", MANIFEST, expected, found)]


# The full level.


def _check_all(
    dataset: Dataset,
    structure: Structure,
    source: planning.Resolved | None,
    near: bool,
    workers: int,
    engine: Engine,
    progress: Progress | None,
) -> Iterator[Finding]:
    """Read every byte, derive every sample, and look for equal images.

    The images are those of `source`, else those that the dataset stores.
    """
    readable = structure.readable
    stored: dict[str, StoredInputs] = {}
    if not source or engine.is_remote:
        stored = _read_inputs(dataset, SPLITS if readable else (), readable, workers)
    if source:
        inputs = {split: source.inputs(split) for split in SPLITS}
    else:
        inputs = _inputs(stored)
        for one in stored.values():  # their damage is found where the shards are checked
            yield from one.other
    derivers = _derivers(readable, inputs)
    yield from _short_of_memory(derivers)
    engine = _usable(engine, inputs, stored, workers)
    checked = _check_shards(dataset, readable, derivers, engine, progress)
    for findings in checked.values():
        yield from findings
    problems = {
        shard: [one for one in findings if isinstance(one, Problem)]
        for shard, findings in checked.items()
    }
    whole = [shard for shard in readable if not problems[shard]]
    yield from check_views(dataset, whole, {one.path for one in structure.problems})
    decoded = [shard for shard in readable if _is_decoded(shard, problems[shard])]
    if len(decoded) < sum(split.shards for split in dataset.splits.values()):
        yield Skipped("samples of shards that are not as the manifest says")
    if inputs.keys() < set(SPLITS) or any(
        shard.split.task == "mosaics" and derivers.get(shard.split) is None for shard in readable
    ):
        yield _DISTINCT
    yield from equal_digits(inputs)
    yield from check_groups(dataset, inputs)
    if source:
        yield from compare_names(dataset, source.source.group_names)
    if near:
        yield from _look_for_near(inputs)
    mosaics = [shard for shard in decoded if shard.split.task == "mosaics"]
    try:
        yield from equal_mosaics(dataset, mosaics)
    except (DatagenError, OSError) as error:
        yield unreadable(dataset.root, mosaics[0].split, error)


def _check_shards(
    dataset: Dataset,
    readable: Sequence[Shard],
    derivers: Mapping[Split, Deriver | None],
    engine: Engine,
    progress: Progress | None,
) -> dict[Shard, list[Finding]]:
    """Check all bytes of the shards: in threads with these derivers, or in other processes."""
    if engine.is_remote:
        known = tuple(dict.fromkeys(split.task for split in derivers))
        work = CheckShards(Place.of(dataset), known, files_of(known))
        engine.prepare(partial(know, work.tasks))
        return run_shards(engine, work, readable, progress=progress)

    def check(shard: Shard, slot: Slot) -> list[Finding]:
        return list(check_shard(dataset, shard, derivers.get(shard.split), slot))

    return run_shards(engine, check, readable, progress=progress)


def _usable(
    engine: Engine, inputs: Mapping[str, Inputs], stored: Mapping[str, StoredInputs], workers: int
) -> Engine:
    """Return `engine` if its jobs can derive all samples, or else threads here.

    Other processes read what samples follow from in the dataset, so that must be there undamaged.
    """
    are_stored = set(inputs) == set(SPLITS) == set(stored) and all(
        one.inputs is not None
        and not one.damage
        and not one.other
        and same_inputs(inputs[split], one.inputs)
        for split, one in stored.items()
    )
    return engine if are_stored or not engine.is_remote else Threads(workers)


def _look_for_near(inputs: Mapping[str, Inputs]) -> Iterator[Finding]:
    """Look for images of two splits that are nearly the same, among the splits that were read."""
    if inputs.keys() < set(SPLITS):
        yield Skipped(f"{_NEAR}: the images of a split are missing")
    try:
        yield near_duplicates({split: one.images for split, one in inputs.items()})
    except (MemoryError, StorageError):
        yield Skipped(f"{_NEAR}: no room for their pictures")


def _is_decoded(shard: Shard, problems: Sequence[Problem]) -> bool:
    """Return whether a shard's samples could be read: compressed ones only if nothing is wrong."""
    packed = shard.split.compression != "none"
    return not any(packed or problem.kind == UNREADABLE for problem in problems)


# A sample.


def _check_sample(
    dataset: Dataset, readable: Sequence[Shard], number: int, seed: int, workers: int
) -> Iterator[Finding]:
    """Derive randomly chosen samples again, from the images that the dataset stores."""
    yield from _SAMPLE
    chosen = _choose(readable, number, seed)
    splits = dict.fromkeys(shard.split.name for shard in chosen)
    stored = _read_inputs(dataset, splits, readable, workers)
    for one in stored.values():
        yield from one.damage
        yield from one.other
    derivers = _derivers(readable, _inputs(stored))
    yield from _short_of_memory(derivers)
    for shard, samples in chosen.items():
        derive = derivers.get(shard.split)
        if derive is not None:
            yield from check_samples(dataset, shard, derive, samples)


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


def _read_inputs(
    dataset: Dataset, splits: Iterable[str], readable: Sequence[Shard], workers: int
) -> dict[str, StoredInputs]:
    return {split: read_inputs(dataset, split, readable, workers) for split in splits}


def _inputs(stored: Mapping[str, StoredInputs]) -> dict[str, Inputs]:
    return {split: one.inputs for split, one in stored.items() if one.inputs is not None}


def _derivers(
    readable: Sequence[Shard], inputs: Mapping[str, Inputs]
) -> dict[Split, Deriver | None]:
    """Make the function that derives the samples of each split; None where memory is short."""
    derivers: dict[Split, Deriver | None] = {}
    for split in dict.fromkeys(shard.split for shard in readable):
        if split.task in TASKS and split.name in inputs:
            try:
                derivers[split] = TASKS[split.task].deriver(inputs[split.name])
            except MemoryError:
                derivers[split] = None
    return derivers


def _short_of_memory(derivers: Mapping[Split, Deriver | None]) -> Iterator[Skipped]:
    for split, derive in derivers.items():
        if derive is None:
            folder = split.folder
            yield Skipped(
                f"whether the samples of {folder} follow from the images: memory is short"
            )
