"""Every claim of a manifest, re-derived from the bytes on disk: all problems are collected, none is mended.

The derivation is its own check: the digits are taken from the source where it is at hand, else from the dataset, every
sample is derived from them anew, and what is stored must be that, byte for byte.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen import assembly, build, recipe
from datagen.dataset import Dataset
from datagen.engines import local
from datagen.errors import InputError, RecipeError
from datagen.hashing import sample_digests
from datagen.layout import MANIFEST, SPLITS
from datagen.proof.findings import Findings, Problem
from datagen.proof.frame import check_frame
from datagen.proof.samples import check_rows, check_shard
from datagen.proof.uniqueness import Digests, equal_groups
from datagen.stores import Array, Section
from datagen.tasks import TASKS, Inputs

__all__ = ["Problem", "Verdict", "verify"]


@dataclass(frozen=True)
class Verdict:
    """What a verification found. `stood_on` says what vouches for the digits; `not_looked_at` what was left out.

    `samples` and `bytes` are those that were derived and compared.
    """

    digest: str
    level: str
    problems: tuple[Problem, ...]
    samples: int
    bytes: int
    seconds: float
    stood_on: str
    not_looked_at: tuple[str, ...]


def verify(
    root: Path,
    *,
    quick: bool = False,
    sample: int | None = None,
    seed: int = 0,
    expect: str | None = None,
    directory: Path | None = None,
    cache: Path | None = None,
    workers: int = 1,
    progress: assembly.Progress | None = None,
) -> Verdict:
    """Verify the dataset in `root`: in full, or as little as `quick` says, or that and `sample` random samples.

    `directory` and `cache` are where the source is looked for when all is verified; `seed` chooses the samples;
    `expect` is the dataset digest that it must have. Raises what opening the manifest raises: without a manifest
    there is no claim.
    """
    started = time.perf_counter()
    dataset, findings = Dataset(root), Findings()
    _check_digest(dataset, expect, findings)
    readable = check_frame(dataset, findings)
    if sample is not None:
        level = f"sample of {sample:,} (seed {seed})"
        _check_sample(dataset, readable, sample, seed, findings)
    elif quick:
        level = "quick"
        findings.not_looked_at += ["the bytes of the shards", "whether the samples follow from the digits"]
    else:
        level = "full"
        _check_all(dataset, readable, (directory, cache), workers, findings, progress)
    return Verdict(
        digest=dataset.manifest.digest,
        level=level,
        problems=tuple(sorted(findings.problems, key=lambda one: (one.path, one.index or 0, one.kind))),
        samples=findings.samples,
        bytes=findings.bytes,
        seconds=time.perf_counter() - started,
        stood_on=findings.stood_on,
        not_looked_at=tuple(findings.not_looked_at),
    )


def _check_digest(dataset: Dataset, expect: str | None, findings: Findings) -> None:
    """Compare the dataset digest with the published one of the recipe and with the one that is expected."""
    known = recipe.known_digest(dataset.manifest.recipe)
    for digest, standing in ((known, "the published digest of its recipe"), (expect, "the digest expected")):
        if digest is not None:
            findings.stood_on = standing
            if digest != dataset.manifest.digest:
                findings.report("another dataset", MANIFEST, digest, dataset.manifest.digest)


def _check_all(
    dataset: Dataset,
    readable: list[Section],
    places: tuple[Path | None, Path | None],
    workers: int,
    findings: Findings,
    progress: assembly.Progress | None,
) -> None:
    """Read every byte, derive every sample, and look for equal images."""
    inputs = _inputs(dataset, readable, places, workers, findings)
    derivers = {
        section: TASKS[section.task].deriver(inputs[section.split])
        for section in readable
        if section.task in TASKS and section.split in inputs
    }
    jobs = sorted(assembly.shard_list(readable), key=lambda job: -job.bytes)
    total = sum(job.bytes for job in jobs)
    for job, problems in local.run(
        lambda job, slot: check_shard(dataset, job, derivers.get(job.section), slot), jobs, workers=workers
    ):
        findings.add(problems)
        findings.samples += len(job.samples)
        findings.bytes += job.bytes
        if progress is not None:
            progress(findings.bytes, total)
    for section in readable:
        if section.split not in inputs:
            findings.not_looked_at.append(f"whether {section.folder} follows from its digits: they cannot be read")
    if len(readable) < len(dataset.sections):
        findings.not_looked_at.append("the samples of sections whose files are not as the manifest says")
    findings.add(_equal_digits(inputs))
    findings.add(_equal_mosaics(dataset, [section for section in readable if section.task == "mosaics"]))


def _inputs(
    dataset: Dataset,
    readable: list[Section],
    places: tuple[Path | None, Path | None],
    workers: int,
    findings: Findings,
) -> dict[str, Inputs]:
    """What the samples of each split must follow from: the source's digits if it is at hand, else those stored."""
    directory, cache = places
    if build.is_at_hand(dataset.manifest.recipe.source, directory=directory, cache=cache):
        try:
            resolved = build.resolve_dataset(dataset.root, directory=directory, cache=cache, workers=workers)
        except (InputError, RecipeError) as error:
            findings.report("another source", MANIFEST, "the source that the dataset was built from", error)
        else:
            findings.stood_on = "the source"
            return {split: resolved.inputs(split) for split in SPLITS}
    else:
        findings.not_looked_at.append("whether these are the digits of the source, which is not at hand")
    usable = {(section.task, section.split): section for section in readable}
    return {
        split: _stored_inputs(dataset, usable["foreground", split], workers)
        for split in SPLITS
        if {("foreground", split), ("circles", split)} <= usable.keys()
    }


def _stored_inputs(dataset: Dataset, digits: Section, workers: int) -> Inputs:
    images = np.ascontiguousarray(dataset.rows("foreground", digits.split, "image", 0, digits.count))
    labels = np.ascontiguousarray(dataset.rows("circles", digits.split, "label", 0, digits.count))
    return build.inputs_of(dataset.manifest.recipe, digits.split, images, labels, workers)


def _equal_digits(inputs: Mapping[str, Inputs]) -> Iterator[Problem]:
    """Digits that are there twice, in one split or in two."""

    def read() -> Iterator[Digests]:
        return (sample_digests(one.images) for one in inputs.values())

    counts = {split: len(one.images) for split, one in inputs.items()}
    for (split, row), (other, index) in _equal_pairs(read, counts, lambda split, row: inputs[split].images[row]):
        kind = "digit twice" if other == split else "digit in two splits"
        found = f"the image of {split} {row:,}"
        yield Problem(kind, f"foreground/{other}", "distinct digits", found, "foreground", other, index)


def _equal_mosaics(dataset: Dataset, sections: list[Section]) -> Iterator[Problem]:
    """Mosaics that are there twice, in one split or in two."""

    def read() -> Iterator[Digests]:
        for section in sections:
            for shard in range(section.shards):
                samples = section.extent(shard)
                yield dataset.rows("mosaics", section.split, "digest", samples.start, samples.stop)

    def image(split: str, row: int) -> Array:
        return dataset.rows("mosaics", split, "image", row, row + 1)

    counts = {section.split: section.count for section in sections}
    for (split, row), (other, index) in _equal_pairs(read, counts, image):
        found = f"the image of {split} {row:,}"
        yield Problem("duplicate", f"mosaics/{other}", "distinct images", found, "mosaics", other, index)


Place = tuple[str, int]  # a split, and a row in it


def _equal_pairs(
    read: Callable[[], Iterator[Digests]], counts: Mapping[str, int], image: Callable[[str, int], Array]
) -> Iterator[tuple[Place, Place]]:
    """Each image that equals an earlier one, with that one: by digest, and then byte for byte."""
    splits, starts = list(counts), np.cumsum([0, *counts.values()])

    def place(position: int) -> Place:
        which = int(np.searchsorted(starts, position, side="right")) - 1
        return splits[which], position - int(starts[which])

    for group in equal_groups(read, int(starts[-1])):
        first: dict[bytes, Place] = {}
        for position in group:
            kept = first.setdefault(image(*place(position)).tobytes(), place(position))
            if kept != place(position):
                yield kept, place(position)


def _check_sample(dataset: Dataset, readable: list[Section], number: int, seed: int, findings: Findings) -> None:
    """Derive a random choice of samples anew, from the digits that are stored."""
    findings.not_looked_at += ["all other samples", "the digests of the shards", "whether all images are distinct"]
    total = sum(section.count for section in readable)
    chosen = sorted(random.Random(seed).sample(range(total), min(number, total)))
    usable = {(section.task, section.split): section for section in readable}
    inputs: dict[str, Inputs] = {}
    first = 0
    for section in readable:
        rows = [position - first for position in chosen if first <= position < first + section.count]
        first += section.count
        if (
            not rows
            or section.task not in TASKS
            or not {("foreground", section.split), ("circles", section.split)} <= usable.keys()
        ):
            continue
        if section.split not in inputs:
            inputs[section.split] = _stored_inputs(dataset, usable["foreground", section.split], 1)
        deriver = TASKS[section.task].deriver(inputs[section.split])
        findings.add(check_rows(dataset, section, deriver, rows))
        findings.samples += len(rows)
        findings.bytes += len(rows) * sum(column.sample_bytes for column in section.columns)
