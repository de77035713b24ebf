"""Every claim of a manifest, re-derived from the bytes on disk: all problems are collected, none is
mended.

The derivation is its own check: the digits are taken from the source where it is at hand, else from
the dataset, every sample is derived from them anew, and what is stored must be that, byte for byte.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen import builder, recipe
from datagen.dataset import Dataset
from datagen.engines import Progress, threads
from datagen.errors import DatagenError, InputError, RecipeError, SourceError, StorageError
from datagen.layout import MANIFEST, SPLITS
from datagen.manifest import difference
from datagen.split import Shard, Split
from datagen.tasks import TASKS, Deriver, Inputs
from datagen.verifier.digits import stored_inputs
from datagen.verifier.duplicates import equal_digits, equal_mosaics
from datagen.verifier.findings import Findings, Problem
from datagen.verifier.frame import check_frame
from datagen.verifier.samples import UNREADABLE, check_samples, check_shard, unreadable
from datagen.verifier.views import check_views, say_of_views

__all__ = ["Problem", "Verdict", "verify"]

SOURCE = "the source"


@dataclass(frozen=True)
class Verdict:
    """What a verification found. `stood_on` says what vouches for the digits; `not_looked_at` what
    was left out.

    `samples` are those that were derived anew and compared, `bytes` what was read of samples.
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
    root: Path | str,
    *,
    quick: bool = False,
    sample: int | None = None,
    seed: int = 0,
    expect: str | None = None,
    directory: Path | str | None = None,
    insist: bool = True,
    workers: int = 1,
    progress: Progress | None = None,
) -> Verdict:
    """Verify the dataset in `root`: in full, or as little as `quick` says, or that and `sample`
    random samples.

    `directory` is where the source is looked for when all is verified; if it is not there, that is
    an error, unless `insist` is False: then it is passed over. `seed` chooses the samples; `expect`
    is the dataset digest that it must have. Raises RecipeError where `expect` is no digest, what
    opening the manifest raises (without a manifest there is no claim), and InputError or
    SourceError where the source is not in a `directory` insisted on.
    """
    started = time.perf_counter()
    if expect is not None and not re.fullmatch("[0-9a-fA-F]{64}", expect):
        raise RecipeError(
            "not a dataset digest", expected="64 hexadecimal digits", found=repr(expect)
        )
    dataset, findings = Dataset(root), Findings()
    _check_digest(dataset, expect, findings)
    whole = not quick and sample is None
    source = _source(dataset, directory, workers, findings, insist=insist) if whole else None
    readable = check_frame(dataset, findings)
    if sample is not None:
        level = f"sample of {sample:,} (seed {seed})"
        _check_sample(dataset, readable, sample, seed, workers, findings)
    elif quick:
        level = "quick"
        findings.not_looked_at += [
            "the bytes of the shards",
            "whether the samples follow from the images",
        ]
        findings.skip("whether all images are distinct")
    else:
        level = "full"
        _check_all(dataset, readable, source, workers, findings, progress)
    say_of_views(dataset, findings, looked_at=whole)
    _say_what_cannot_be_known(findings)
    return Verdict(
        digest=dataset.manifest.digest,
        level=level,
        problems=tuple(
            sorted(findings.problems, key=lambda one: (one.path, one.index or 0, one.kind))
        ),
        samples=findings.samples,
        bytes=findings.bytes,
        seconds=time.perf_counter() - started,
        stood_on=findings.stood_on,
        not_looked_at=tuple(findings.not_looked_at),
    )


def _say_what_cannot_be_known(findings: Findings) -> None:
    if not findings.vouchers:
        findings.skip(
            "whether these are the images of the source, with its labels: give --source-dir or --expect"
        )
    if SOURCE not in findings.vouchers:
        findings.skip(
            "what the manifest tells of its source: names, licence, duplicates that were dropped"
        )


def _check_digest(dataset: Dataset, expect: str | None, findings: Findings) -> None:
    """Compare the dataset digest with the published one of the recipe and with the one that is
    expected.
    """
    known, found = recipe.known_digest(dataset.manifest.recipe), dataset.manifest.digest
    for digest, standing in (
        (known, "published for this recipe"),
        (expect and expect.lower(), "expected"),
    ):
        if digest == found:
            findings.vouchers.append(f"the digest {standing}")
        elif digest is not None:
            findings.report(f"not the digest {standing}", MANIFEST, digest, found)


def _check_all(
    dataset: Dataset,
    readable: list[Shard],
    source: builder.Resolved | None,
    workers: int,
    findings: Findings,
    progress: Progress | None,
) -> None:
    """Read every byte, derive every sample, from the digits of `source` if it is there, and look
    for equal images.
    """
    if source is None:
        inputs = _stored_inputs(
            dataset, SPLITS if readable else (), readable, workers, findings, tell=False
        )
    else:
        inputs = {split: source.inputs(split) for split in SPLITS}
    derivers = _derivers(readable, inputs, findings)
    total, lost, wrong = sum(job.bytes for job in readable), set[Shard](), set[Shard]()
    order = sorted(readable, key=lambda job: -job.bytes)
    for job, (problems, derived) in threads.run(
        lambda job, slot: check_shard(dataset, job, derivers.get(job.split), slot),
        order,
        workers=workers,
    ):
        findings.add(problems)
        findings.samples += derived
        findings.bytes += job.bytes
        wrong |= {job} if problems else set()
        compressed = job.split.compression != "none"  # these are not decoded if anything is wrong
        if any(compressed or problem.kind == UNREADABLE for problem in problems):
            lost.add(job)
        if progress is not None:
            progress(findings.bytes, total)
    check_views(dataset, set(readable) - wrong, findings)
    whole = [job for job in readable if job not in lost]
    if len(whole) < sum(section.shards for section in dataset.splits.values()):
        findings.skip("samples of shards that are not as the manifest says")
    if inputs.keys() < set(SPLITS) or any(
        job.split.task == "mosaics" and job.split not in derivers for job in readable
    ):
        findings.skip("whether all images are distinct")
    findings.add(equal_digits(inputs))
    mosaics = [job for job in whole if job.split.task == "mosaics"]
    try:
        findings.add(equal_mosaics(dataset, mosaics))
    except (DatagenError, OSError) as error:
        findings.add([unreadable(dataset, mosaics[0].split, error)])


def _source(
    dataset: Dataset,
    directory: Path | str | None,
    workers: int,
    findings: Findings,
    *,
    insist: bool,
) -> builder.Resolved | None:
    """The source that the dataset was built from, if it is at hand and the same; in `findings` if
    it is another.
    """
    recorded = dataset.manifest.recipe
    if directory is None and not builder.is_at_hand(recorded.source):
        return None
    stated = dataset.manifest.plan
    try:
        resolved = builder.resolve(recorded, directory=directory, workers=workers, offline=True)
        if resolved.plan == stated:
            findings.vouchers.append(SOURCE)
            return resolved
        expected, found = difference(stated, resolved.plan)
    except RecipeError as error:
        expected, found = "the source it was built from", str(error)
    except (InputError, SourceError, StorageError) as error:
        if directory is None:
            findings.skip(f"the source: {error.problem}")
            return None
        if insist:  # whoever names a place is to know that the source is not in it
            raise
        return _source(dataset, None, workers, findings, insist=False)
    if directory is not None and not insist and recorded.source not in builder.EMBEDDED_OR_PINNED:
        findings.skip(
            f"the source in {directory}, which is another: expected {expected}, found {found}"
        )
        return _source(dataset, None, workers, findings, insist=False)
    findings.report("another source", MANIFEST, expected, found)
    return None


def _stored_inputs(
    dataset: Dataset,
    splits: Iterable[str],
    readable: list[Shard],
    workers: int,
    findings: Findings,
    *,
    tell: bool,
) -> dict[str, Inputs]:
    found = {
        split: stored_inputs(dataset, split, readable, workers, findings, tell=tell)
        for split in splits
    }
    return {split: inputs for split, inputs in found.items() if inputs is not None}


def _derivers(
    readable: Sequence[Shard], inputs: Mapping[str, Inputs], findings: Findings
) -> dict[Split, Deriver]:
    derivers = {}
    for section in dict.fromkeys(job.split for job in readable):
        if section.task in TASKS and section.name in inputs:
            try:
                derivers[section] = TASKS[section.task].deriver(inputs[section.name])
            except MemoryError:
                findings.skip(
                    f"whether the samples of {section.folder} follow from the images: memory is short"
                )
    return derivers


def _check_sample(
    dataset: Dataset,
    readable: list[Shard],
    number: int,
    seed: int,
    workers: int,
    findings: Findings,
) -> None:
    """Derive a random choice of samples anew, from the digits that are stored; `readable` is in the
    order of files.
    """
    findings.not_looked_at += [
        "all other samples",
        "the digests of the shards",
        "whether all images are distinct",
    ]
    total = sum(len(job.samples) for job in readable)
    chosen = sorted(random.Random(seed).sample(range(total), min(number, total)))
    samples: dict[Shard, list[int]] = {}
    first, at = 0, 0
    for job in readable:
        last = first + len(job.samples)
        while at < len(chosen) and chosen[at] < last:
            samples.setdefault(job, []).append(job.samples[chosen[at] - first])
            at += 1
        first = last
    splits = dict.fromkeys(job.split.name for job in samples)
    derivers = _derivers(
        readable, _stored_inputs(dataset, splits, readable, workers, findings, tell=True), findings
    )
    for job, picked in samples.items():
        if job.split in derivers:
            problems, derived = check_samples(dataset, job, derivers[job.split], picked)
            findings.add(problems)
            findings.samples += derived
            findings.bytes += derived * sum(column.sample_bytes for column in job.split.columns)
