"""Tables and JSON of datasets, builds, samples, comparisons and verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datagen
from datagen.cli.output import (
    exit_with,
    print_json,
    print_line,
    print_table,
    print_verdict_line,
)
from datagen.errors import format_bytes
from datagen.layout import MANIFEST, SPLITS

_DIGEST = 12  # hexadecimal digits that identify a digest
_LISTED = 6  # columns that a line names
_CLASSES = 12  # classes that a line names
_ROWS = 12  # differences that a table shows
_CELL = 32  # characters of a value in a table
_NEAR_SHOWN = 20  # pairs of images that are nearly the same
_WRITTEN = 10**4000  # integers below it are written in JSON: Python reads none of 4,301 digits
_REPAIRABLE = {"missing", "another size", "damaged", "consolidated"}  # problems a build repairs


def manifest_facts(manifest: datagen.manifest.Manifest) -> dict[str, Any]:
    """Make what `info --json` prints."""
    tasks = {
        task: {
            split: {
                "samples": facts.count,
                "bytes": facts.bytes,
                "columns": {
                    c.name: {
                        "dtype": c.dtype,
                        "shape": [facts.count, *c.shape],
                        "axes": c.axes,
                        "root": c.root,
                    }
                    for c in facts.columns
                },
            }
            for split, facts in splits.items()
        }
        for task, splits in manifest.tasks.items()
    }
    return {
        "digest": manifest.digest,
        "format_version": manifest.version,
        "recipe": datagen.recipe.to_table(manifest.recipe),
        "source": manifest.source.table(),
        "tasks": tasks,
    }


def built_facts(built: datagen.target.Built, root: Path | str) -> dict[str, Any]:
    """Make what `build --json` prints."""
    facts = {} if built.manifest is None else manifest_facts(built.manifest)
    return {
        **facts,
        "path": str(root),
        "finished": built.manifest is not None,
        "shards_written": built.written,
        "shards_kept": built.kept,
        "metadata_written": built.committed,
        "removed": built.removed,
        "seconds": round(built.seconds, 3),
    }


def print_built(
    built: datagen.target.Built,
    root: Path | str,
    quiet: bool,
    as_json: bool,
    *,
    committed: str = "metadata written again",
    unchanged: str = "whole, nothing to do",
    sheets: Sequence[Path] = (),
) -> None:
    """Print what a build did, and the dataset, with the folder of its contact sheets if any.

    Where no shard was written, `committed` says that metadata were, `unchanged` that nothing was.
    """
    with exit_with(0):
        if as_json:
            print_json(built_facts(built, root))
        elif not quiet:
            _print_summary(built, root, committed, unchanged)
            if sheets:
                print_line(f"contact sheets: {sheets[0].parent}")


def _print_summary(
    built: datagen.target.Built, root: Path | str, committed: str, unchanged: str
) -> None:
    if built.manifest is None:
        print_line(
            f"{root}: {built.written} shards written, {built.kept} were there;"
            f" commit with 'datagen finish {root}'"
        )
        return
    done, kept = unchanged, ""
    if built.written or built.committed:
        done = f"built in {built.seconds:.1f} s" if built.written else committed
        kept = f", {built.kept} shards were there" if built.kept else ""
    gone = f"; all.h5 removed from {len(built.removed)} splits: read the shards"
    print_line(f"{root}: {done}{kept}{gone if built.removed else ''}")
    print_manifest(built.manifest)


def print_info(manifest: datagen.manifest.Manifest) -> None:
    """Print all that `info` shows: samples, columns, source and storage."""
    from datagen.sources.base import order_remark  # imports NumPy

    storage, source = manifest.recipe.storage, manifest.source
    classes = ", ".join(source.classes[:_CLASSES])
    more = "..." if len(source.classes) > _CLASSES else ""
    print_manifest(manifest)
    print_columns(manifest)
    print_line(f"source    {source.name}: {classes}{more}")
    if source.name == "images" and (remark := order_remark(source.classes)):
        print_line(f"          {remark}")
    print_line(f"          {source.attribution} ({source.licence})")
    print_line(f"          foreground: {manifest.recipe.foreground}")
    if source.groups is not None:
        print_line(f"          {source.groups:,} groups, each in one split")
    for split, digits in source.digits.items():
        print_line(
            f"          {split}: {digits.count:,} distinct images"
            f" of {source.tile[0]}x{source.tile[1]}; dropped as duplicates:"
            f" {digits.dropped_within:,} within, {digits.dropped_across:,} across splits"
        )
    if source.conflicts:
        print_line(
            f"          {source.conflicts:,} duplicates with another label,"
            f" such as {source.conflicts_listed[0]}"
        )
    print_line(
        f"storage   {storage.format}, {storage.shard_size:,} samples a shard,"
        f" compression {storage.compression}"
    )


def print_survey(found: datagen.survey.Survey, source: str, quiet: bool, as_json: bool) -> None:
    """Print what a source has, and what a recipe makes of it."""
    if as_json:
        print_json(asdict(found))
    if as_json or quiet:
        return
    total = sum(found.images.values())
    print_line(f"{source}: {total:,} distinct images of {found.kind}")
    rows = [["", *SPLITS]]
    rows.append(["images", *(f"{found.images[split]:,}" for split in SPLITS)])
    dropped = [found.dropped[split] for split in SPLITS]
    rows.append(["duplicates left out", *(f"{sum(two):,}" for two in dropped)])
    for name, counts in list(found.classes.items())[:_CLASSES]:
        rows.append([f"class {name}", *(f"{counts[split]:,}" for split in SPLITS)])
    print_table(rows)
    if len(found.classes) > _CLASSES:
        print_line(f"and {len(found.classes) - _CLASSES:,} more classes")
    if not found.classes:
        print_line("no classes: only the foreground dataset can be built")
    if found.mask_classes:
        print_line(f"masks of {len(found.mask_classes):,} classes")
    if found.groups:
        print_line("{:,} groups, the largest of {:,} images".format(*found.groups))
    if found.foreground:
        shares = found.foreground
        print_line(
            f"foreground: {shares.mean:.1%} of an image in the mean, {shares.least:.1%} to"
            f" {shares.most:.1%}; {shares.empty:,} images without any"
        )


def print_estimate(
    found: datagen.estimate.Estimate, workers: int, quiet: bool, as_json: bool
) -> None:
    """Print what a build would write, and what it takes."""
    if as_json:
        sums = {"files": found.files, "bytes": found.bytes, "core_seconds": found.seconds}
        facts = {**asdict(found), **sums}
        for why in facts["distinct"].values():
            if why["possible"] >= _WRITTEN:
                why["possible"] = None
        print_json(facts)
    if as_json or quiet:
        return
    rows = [["", "samples", "shards", "files", "bytes", "core time"]]
    for one in found.splits:
        counts = (f"{count:,}" for count in (one.samples, one.shards, one.files))
        time = _duration(one.seconds)
        rows.append([f"{one.task}/{one.name}", *counts, format_bytes(one.bytes), time])
    shards = f"{sum(one.shards for one in found.splits):,}"
    time = _duration(found.seconds)
    rows.append(["total", "", shards, f"{found.files:,}", format_bytes(found.bytes), time])
    print_table(rows)
    wall = _duration(found.seconds / workers)
    cores = f"{workers:,} core{'s' * (workers > 1)} like this one"
    print_line(f"time      {wall} on {cores}, if storage keeps up: deriving and hashing alone")
    print_line(
        f"memory    {format_bytes(found.inputs)} of images and masks in a process,"
        f" {format_bytes(found.block)} of samples for each core"
    )
    _print_shards(found)
    for split, why in found.distinct.items():
        print_line(
            f"distinct  {split}: no two of {why.images:,} images are equal, and none of"
            f" {_count(why.possible)} grids of them comes twice"
        )


def _print_shards(found: datagen.estimate.Estimate) -> None:
    maps = f"of {found.shard_size:,} samples; training maps {found.maps:,} files"
    if found.advised == found.shard_size:
        print_line(f"shards    {maps}")
    elif found.advised is None:
        print_line(f"shards    {maps}, and no shard size keeps them within the limits of Linux")
    else:
        print_line(f"shards    {maps}, too many for Linux: use --shard-size {found.advised}")


def _count(number: int) -> str:
    """Write a number in digits; one of more than fifteen by its power of ten, rounded down.

    >>> _count(21_381_376), _count(55_000**4)
    ('21,381,376', '9.1 * 10^18')
    """
    if number < 10**15:
        return f"{number:,}"
    power = math.floor(math.log10(number))  # of any size: a float holds none beyond 10^308
    return f"{number // 10 ** (power - 1) / 10:.1f} * 10^{power}"


def _duration(seconds: float) -> str:
    """Write a time in a unit that suits it.

    >>> _duration(0.25), _duration(150), _duration(36_000)
    ('0.25 s', '2.5 min', '10 h')
    """
    for size, unit in ((86_400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.2g} s" if seconds >= 0.01 else "< 0.01 s"


def print_manifest(manifest: datagen.manifest.Manifest) -> None:
    """Print the samples of each task and split, their bytes, and the digest."""
    rows = [["", *SPLITS, "bytes"]]
    for task, splits in manifest.tasks.items():
        sizes = " + ".join(format_bytes(facts.bytes) for facts in splits.values())
        rows.append([task, *(f"{facts.count:,}" for facts in splits.values()), sizes])
    total = sum(facts.bytes for splits in manifest.tasks.values() for facts in splits.values())
    decoded = "" if manifest.recipe.storage.compression == "none" else " decoded"
    rows.append(["total", *[""] * len(SPLITS), format_bytes(total) + decoded])
    print_table(rows)
    print_line(f"digest    {manifest.digest}")


def print_columns(manifest: datagen.manifest.Manifest) -> None:
    """Print the columns of each task: type, shape and axes of a sample, and the total bytes."""
    import numpy as np  # not at the top: --help of every command answers without it

    sizes: dict[tuple[str, ...], int] = {}
    for task, splits in manifest.tasks.items():
        for facts in splits.values():
            for column in facts.columns:
                shape = "x".join(map(str, column.shape)) or "one number"
                # "|u1" is uint8: NumPy knows the names
                dtype = str(np.dtype(column.dtype))
                described = (f"{task}/{column.name}", dtype, shape, " ".join(column.axes))
                sizes[described] = sizes.get(described, 0) + facts.count * column.sample_bytes
    rows = [["column", "type", "of a sample", "axes", "bytes"]]
    rows += [[*described, format_bytes(count)] for described, count in sizes.items()]
    print_table(rows, right=(4,))


def print_sample(
    place: tuple[str, str, int],
    values: Mapping[str, datagen.api.Array],
    quiet: bool,
    as_json: bool,
    *,
    computed_from: str | None = None,
) -> None:
    """Print the columns of the sample at (task, split, index), large ones by type and shape only.

    A last line says what they were computed from; version 0.1 called that key "stood_on" in JSON.
    """
    if as_json:
        facts = dict(zip(("task", "split", "index"), place, strict=True))
        origin = {} if computed_from is None else {"stood_on": computed_from}
        columns = {name: value.tolist() for name, value in values.items()}
        print_json({**facts, **origin, **columns})
    elif not quiet:
        lines = {name: _format_value(name, value) for name, value in values.items()}
        width = max(10, *map(len, lines))
        for name, line in lines.items():
            print_line(f"{name:{width}} {line}")
        if computed_from is not None:
            print_line(f"computed from {computed_from}")


def _format_value(name: str, value: datagen.api.Array) -> str:
    if value.size > 64:
        return f"{value.dtype} {'x'.join(map(str, value.shape))}"
    return value.tobytes().hex() if name == "digest" else str(value.tolist())


def print_comparison(compared: datagen.diff.Comparison, names: tuple[str, str]) -> None:
    """Print on a few lines whether two datasets hold the same data, and what else differs."""
    _print_whether_same(compared)
    rows = [[_plainer(one.what), _cut(one.a), _cut(one.b)] for one in compared.others[:_ROWS]]
    if not compared.same_data:
        rows.insert(0, ["digest", *(digest[:_DIGEST] for digest in compared.digests)])
    if rows:
        print_table([["", *names], *rows], right=())
    more = len(compared.others) - _ROWS
    hint = (
        f"{more:,} more differences, and which samples differ"
        if more > 0
        else "which samples differ"
    )
    if more > 0 or not compared.same_data:
        print_line(f"{hint}: give --verbose")
    if not compared.others:
        print_line("recipe, source and storage are the same")
    print_line("only the manifests were compared; 'datagen verify' checks the bytes")


def print_differences(
    compared: datagen.diff.Comparison,
    names: tuple[str, str],
    differences: Sequence[datagen.diff.Difference],
) -> None:
    """Print whether two datasets hold the same data, and every difference in full."""
    _print_whether_same(compared)
    print_line(f"A is {names[0]}, B is {names[1]}")
    for difference in differences:
        print_line(str(difference))


def _print_whether_same(compared: datagen.diff.Comparison) -> None:
    if compared.same_data:
        print_line(f"the same data: digest {compared.digests[0][:_DIGEST]}")
        return
    listed, count = ", ".join(compared.differing[:_LISTED]), len(compared.differing)
    more = f", and {count - _LISTED:,} more" if count > _LISTED else ""
    print_line(f"the data differ: in {count:,} of {compared.columns:,} columns: {listed}{more}")


def _plainer(what: str) -> str:
    return what.replace("recipe storage.", "storage ").replace("recipe mosaics.", "mosaics ")


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[: _CELL - 3]}..."


def verdict_facts(verdict: datagen.verifier.Verdict) -> dict[str, Any]:
    """Make what `verify --json` prints; `passed` says that there are no problems."""
    keys = {"checked_against": "stood_on", "skipped": "not_looked_at"}  # those of version 0.1
    facts = {keys.get(name, name): value for name, value in vars(verdict).items()}
    facts["problems"] = [vars(problem) for problem in verdict.problems]
    del facts["near"]
    if verdict.near is not None:
        pairs = [vars(pair) for pair in verdict.near.pairs]
        facts["near"] = {**vars(verdict.near), "pairs": pairs}
    if verdict.wrong_at_most is not None:
        facts["wrong_at_most"] = verdict.wrong_at_most
    rate = verdict.bytes / verdict.seconds
    return {"passed": not verdict.problems, **facts, "bytes_per_second": round(rate)}


def print_verdict(verdict: datagen.verifier.Verdict, root: Path | str) -> None:
    """Print the verdict on a dataset, its problems, and what it was checked against."""
    for problem in verdict.problems:
        print_line(f"{root}/{problem}")
    count, is_full = len(verdict.problems), verdict.level == "full"
    if count:
        result = f"{count:,} problem{'s' * (count > 1)}"
    else:
        result = "whole" if is_full else "nothing wrong found"
    rate = f", {format_bytes(round(verdict.bytes / verdict.seconds))}/s" if is_full else ""
    print_verdict_line(
        f"{root}: {result}; {verdict.level}: {verdict.samples:,} samples derived again"
        f" in {verdict.seconds:.1f} s{rate}",
        good=not count,
    )
    if verdict.wrong_at_most is not None:
        share = f"{100 * verdict.wrong_at_most:.2g}%"
        print_line(f"at most {share} of all samples are wrong, at 95% confidence")
    print_line(f"checked against {verdict.checked_against}")
    for matter in verdict.skipped:
        print_line(f"skipped: {matter}")
    if verdict.near is not None:
        _print_near(verdict.near)
    print_line(f"digest    {verdict.digest}")
    kinds = {problem.kind for problem in verdict.problems}
    is_manifest_right = all(problem.path != MANIFEST for problem in verdict.problems)
    if kinds & _REPAIRABLE and is_manifest_right:
        print_line("to repair: give the command that wrote it again: it writes what is damaged")


def _print_near(near: datagen.verifier.problems.NearDuplicates) -> None:
    """Print how many images of two splits are nearly the same, and the likest pairs."""
    least = "" if near.complete else "at least "
    many = f"{least}{near.count:,} pair{'s' * (near.count != 1)} of images of two splits"
    print_line(f"near: {many} that are nearly the same")
    for pair in near.pairs[:_NEAR_SHOWN]:
        print_line(f"  {pair}")
    if near.count > _NEAR_SHOWN:
        print_line(f"  and {near.count - _NEAR_SHOWN:,} more")
