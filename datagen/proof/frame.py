"""What can be proven without reading a shard: that the claims agree, and that the files are there and of their size.

Nothing that a dataset says is followed before it is bounded: no link, no path out of the folder, no count that the
sizes of the files do not bear out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from datagen import build, recipe
from datagen.dataset import Dataset, table_path
from datagen.errors import DatagenError
from datagen.hashing import file_digest, merkle_root
from datagen.layout import MANIFEST, RECIPE
from datagen.manifest import NO_OFFSET, SHARD_FACTS, FileFacts, Manifest
from datagen.proof.findings import Findings
from datagen.stores import Section, open_store
from datagen.tasks import TASKS

_NAMED = 5  # shards of a column that are named; the others have the same trouble

Inventory = Mapping[str, int]


def check_frame(dataset: Dataset, findings: Findings) -> list[Section]:
    """Check all that is not samples; returns the sections whose shards can be read as the manifest says."""
    manifest, there = dataset.manifest, inventory(dataset.root)
    belonging = {MANIFEST, *(file.path for file in manifest.files)}
    for file in manifest.files:
        _check_file(dataset.root, file, there, findings)
    _check_recipe(dataset, there, findings)
    readable = []
    claimed = {section.folder: section for section in dataset.sections.values()}
    due = {section.folder: section for section in _due_sections(manifest, findings)}
    unknown = {folder for folder, section in claimed.items() if section.task in _unknown_tasks(manifest)}
    for folder in sorted({*claimed, *due}):
        if folder not in unknown and claimed.get(folder) != due.get(folder):
            findings.report("another section", MANIFEST, due.get(folder, "none"), claimed.get(folder, "none"))
            belonging.update(path for path in there if path.startswith((f"{folder}/", f"{folder}.")))
            continue
        shards = _check_section(dataset, claimed[folder], there, findings)
        if shards is None:
            belonging.update(path for path in there if path.startswith((f"{folder}/", f"{folder}.")))
        else:
            belonging.update(shards, {manifest.tasks[claimed[folder].task][claimed[folder].split].table.path})
            readable += [claimed[folder]] * all(there.get(path) == size for path, size in shards.items())
    for path in sorted(there.keys() - belonging):
        findings.report("unexpected", path, "nothing", "a file" if there[path] >= 0 else "a link or an empty folder")
    return readable


def inventory(root: Path) -> dict[str, int]:
    """Size of every file below `root`, by relative path; -1 for what is no regular file. No link is followed."""
    there: dict[str, int] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            found = list(entries)
        if folder and not found:
            there[folder.rstrip("/")] = -1
        for entry in found:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                folders.append(f"{folder}{entry.name}/")
            else:
                there[f"{folder}{entry.name}"] = status.st_size if stat.S_ISREG(status.st_mode) else -1
    return there


def _check_file(
    root: Path, file: FileFacts, there: Inventory, findings: Findings, section: Section | None = None
) -> bool:
    """Check a small file in full; whether it is what the manifest says."""
    if not _check_size(file.path, file.bytes, there, findings, section):
        return False
    found = file_digest(root / file.path)
    if found != file.digest:
        findings.report("damaged", file.path, file.digest, found, section)
    return found == file.digest


def _check_size(path: str, size: int, there: Inventory, findings: Findings, section: Section | None = None) -> bool:
    found = there.get(path)
    if found == size:
        return True
    if found is None:
        folder = any(other.startswith(f"{path}/") for other in there)
        findings.report("missing", path, f"{size:,} bytes", "a folder" if folder else "nothing", section)
    else:
        told = "a link or an empty folder" if found < 0 else f"{found:,} bytes"
        findings.report("another size", path, f"{size:,} bytes", told, section)
    return False


def _check_recipe(dataset: Dataset, there: Inventory, findings: Findings) -> None:
    wanted = recipe.to_toml(dataset.manifest.recipe).encode()
    if RECIPE not in {file.path for file in dataset.manifest.files}:
        findings.report("not listed", MANIFEST, RECIPE, "no such file")
    if there.get(RECIPE) == len(wanted) and (dataset.root / RECIPE).read_bytes() == wanted:
        return
    findings.report("another recipe", RECIPE, "the recipe in the manifest", "something else")


def _due_sections(manifest: Manifest, findings: Findings) -> list[Section]:
    """The sections that the recipe and the source ask for, of the tasks that are known here."""
    unknown = _unknown_tasks(manifest)
    findings.not_looked_at += [f"whether {task} is right: no task of that name is known here" for task in unknown]
    known = tuple(task for task in manifest.recipe.tasks if task not in unknown)
    try:
        return build.sections(replace(manifest, recipe=replace(manifest.recipe, tasks=known)))
    except (KeyError, IndexError) as error:
        findings.report("incomplete", MANIFEST, "the digits of every split, and their size", f"no {error}")
        return []


def _unknown_tasks(manifest: Manifest) -> list[str]:
    return [task for task in manifest.recipe.tasks if task not in TASKS]


def _check_section(dataset: Dataset, section: Section, there: Inventory, findings: Findings) -> dict[str, int] | None:
    """Check a section's table, metadata, and the sizes of its shards.

    Returns the size of each shard file, by path; None where the table cannot tell.
    """
    facts = dataset.manifest.tasks[section.task][section.split]
    store = open_store(dataset.manifest.recipe.storage.format)
    rules = [store.path_rule(section, column) for column in section.columns]
    stated = [*(column.path for column in facts.columns), facts.table.path]
    for rule, path in zip([*rules, table_path(section)], stated, strict=True):
        if path != rule:
            findings.report("another path", MANIFEST, rule, path, section)
    size = section.shards * len(section.columns) * SHARD_FACTS.itemsize
    if facts.table.bytes != size:
        findings.report("another size", MANIFEST, f"a table of {size:,} bytes", f"{facts.table.bytes:,}", section)
        return None
    if not _check_file(dataset.root, facts.table, there, findings, section):
        return None
    if not _check_table(dataset, section, findings):
        return None
    shards = {
        rule.format(shard=shard): int(row["file_bytes"])
        for rule, line in zip(rules, dataset.table(section.task, section.split), strict=True)
        for shard, row in enumerate(line)
    }
    for path, expected in shards.items():
        _check_size(path, expected, there, findings, section)
    frame = [file.path for file in dataset.manifest.files if file.path.startswith(f"{section.folder}/")]
    if all(there.get(path, -1) >= 0 for path in frame):
        for problem in store.frame_problems(dataset.root, section):
            findings.report("misleading", problem.path, problem.expected, problem.found, section)
    return shards


def _check_table(dataset: Dataset, section: Section, findings: Findings) -> bool:
    """Whether the table's own claims agree with each other and with the manifest."""
    facts = dataset.manifest.tasks[section.task][section.split]
    try:
        table = dataset.table(section.task, section.split)
    except DatagenError as error:
        findings.report("contradiction", facts.table.path, "a table that agrees with the manifest", error, section)
        return False
    before = len(findings.problems)
    for column, claimed, line in zip(section.columns, facts.columns, table, strict=True):
        root = merkle_root([row.tobytes() for row in line["root"]]).hex()
        if root != claimed.root:
            findings.report("contradiction", facts.table.path, f"{column.name} with {claimed.root}", root, section)
        if section.compression == "none":
            bad = line["offset"].astype(object) + line["length"].astype(object) > line["file_bytes"]
        else:
            bad = line["offset"] != NO_OFFSET
        for shard in np.flatnonzero(bad)[:_NAMED]:
            found = f"offset {line['offset'][shard]} in {line['file_bytes'][shard]:,} bytes"
            findings.report("contradiction", facts.table.path, f"{column.name} within shard {shard}", found, section)
    return len(findings.problems) == before
