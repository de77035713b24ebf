"""What can be proven without reading a shard: that the claims agree, and that the files are there
and of their size.

Nothing that a dataset says is followed before it is bounded: no link, no path out of the folder, no
count that the files do not bear out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from datagen import builder, recipe
from datagen.dataset import Dataset
from datagen.errors import DatagenError
from datagen.files import require_enough
from datagen.hashing import file_digest, merkle_root
from datagen.layout import CHUNK, MANIFEST, RECIPE
from datagen.manifest import Manifest
from datagen.sources.base import MAX_CLASSES, MAX_SIDE
from datagen.split import FileFacts, Shard, Split
from datagen.stores import Contradiction, Store, open_store
from datagen.tasks import TASKS
from datagen.verifier.findings import Findings
from datagen.verifier.inventory import CLOSED, EMPTY, Inventory, described, inventory

_MISSING = 10_000  # shard files beyond those there that are named one by one
# bytes of what is looked at in one piece: a sample, or a chunk of compressed ones
_MAX_DECODED = 1 << 30


def check_frame(dataset: Dataset, findings: Findings) -> list[Shard]:
    """Check all that is not samples; returns the shards that can be read as the manifest says."""
    manifest, there = dataset.manifest, inventory(dataset.root)
    _check_listed(dataset, there, findings)
    _check_recipe(dataset, there, findings)
    sensible = _check_claims(manifest, findings)
    due = _due_sections(manifest, findings)
    belonging = {MANIFEST, *(file.path for file in manifest.files)}
    readable: list[Shard] = []
    for folder, section in {section.folder: section for section in dataset.splits.values()}.items():
        known = section.task not in _unknown_tasks(manifest)
        planned = due.get(folder)
        if known and (planned is None or planned.declared != section.declared):
            _report_section(planned, section, findings)
            shards = None
        else:
            shards = _check_section(dataset, section, there, belonging, findings)
        if shards is None:  # what belongs there cannot be told
            belonging.update(
                path for path in there if path.startswith((f"{folder}/", f"{folder}."))
            )
        else:
            readable += shards
    for folder in due.keys() - {section.folder for section in dataset.splits.values()}:
        _report_section(due[folder], None, findings)
    homes = {str(folder) for path in belonging for folder in PurePosixPath(path).parents}
    for path in sorted(there.keys() - belonging):
        if there[path] == EMPTY and path in homes:  # what is missing in it is told
            continue
        kind, expected = (
            ("unreadable", "what can be looked at")
            if there[path] == CLOSED
            else ("unexpected", "nothing")
        )
        findings.report(kind, path, expected, described(path, there))
    return readable if sensible else []


def _check_listed(dataset: Dataset, there: Inventory, findings: Findings) -> None:
    """The manifest may list what frames its sections, which is read, and nothing else: that would
    be another face.
    """
    store = open_store(dataset.manifest.recipe.storage.format)
    due = {
        RECIPE,
        *(path for section in dataset.splits.values() for path in _frame(store, section)),
    }
    for file in dataset.manifest.files:
        if file.path in due and _was_consolidated(dataset, store, file, there):
            found = "zarr.consolidate_metadata's, which touches no sample: the same build command writes it as it was"
            findings.report(
                "consolidated",
                file.path,
                "the metadata without the key consolidated_metadata",
                found,
            )
        elif file.path in due:
            _check_file(dataset, file, there, findings)
        else:
            findings.report("unexpected", file.path, "nothing", "a file that the manifest lists")


def _frame(store: Store, section: Split) -> list[str]:
    """List the files that may frame a section: those that are written now, and the view of earlier
    ones.
    """
    return [*store.frame_paths(section), *([store.views.path(section)] if store.views else [])]


def _was_consolidated(dataset: Dataset, store: Store, file: FileFacts, there: Inventory) -> bool:
    """Say whether zarr wrote a group's metadata anew, with copies of those of its arrays."""
    if store.is_consolidated is None or there.get(file.path, -1) < 0:
        return False
    try:
        return store.is_consolidated(dataset.root, file.path)
    except OSError:
        return False  # told where the file is read


def _check_file(
    dataset: Dataset,
    file: FileFacts,
    there: Inventory,
    findings: Findings,
    section: Split | None = None,
) -> bool:
    """Check a small file in full; whether it is what the manifest says."""
    if not _check_size(file.path, file.bytes, there, findings, section):
        return False
    try:
        found = file_digest(dataset.root / file.path)
    except OSError as error:
        require_enough(error)
        findings.report("unreadable", file.path, "what was written", error.strerror, section)
        return False
    if found != file.digest:
        findings.report("damaged", file.path, file.digest, found, section)
    return found == file.digest


def _check_size(
    path: str, size: int, there: Inventory, findings: Findings, section: Split | None = None
) -> bool:
    if there.get(path) == size:
        return True
    kind = "another size" if there.get(path, -1) >= 0 else "missing"
    findings.report(kind, path, f"{size:,} bytes", described(path, there), section)
    return False


def _check_recipe(dataset: Dataset, there: Inventory, findings: Findings) -> None:
    wanted = recipe.to_toml(dataset.manifest.recipe).encode()
    if RECIPE not in {file.path for file in dataset.manifest.files}:
        findings.report("not listed", MANIFEST, RECIPE, "no such file")
    if there.get(RECIPE, -1) < 0:
        return
    try:
        same = there[RECIPE] == len(wanted) and (dataset.root / RECIPE).read_bytes() == wanted
    except OSError:
        return  # told where the files that the manifest lists are read
    if not same:
        findings.report("another recipe", RECIPE, "the recipe in the manifest", "something else")


def _check_claims(manifest: Manifest, findings: Findings) -> bool:
    """Whether the manifest's claims of the source and of the mosaics can be true of any source."""
    source, (rows, columns), recorded = (
        manifest.source,
        manifest.recipe.mosaics.grid,
        manifest.recipe.source,
    )
    dropped = sum(
        digits.dropped_within + digits.dropped_across for digits in source.digits.values()
    )
    facts = [
        (recorded == source.name, f"the source of the recipe, {recorded}", source.name),
        (
            max(source.tile) <= MAX_SIDE,
            f"images of at most {MAX_SIDE} x {MAX_SIDE}",
            "{} x {}".format(*source.tile),
        ),
        (
            0 < len(source.classes) <= MAX_CLASSES,
            f"1 to {MAX_CLASSES} classes",
            len(source.classes),
        ),
        (
            len(source.conflicts_listed) <= source.conflicts <= dropped,
            f"from {len(source.conflicts_listed):,} (those listed) to {dropped:,} (those dropped) conflicts",
            f"{source.conflicts:,}",
        ),
    ]
    for split, digits in source.digits.items():
        most, wanted = digits.count ** (rows * columns), manifest.recipe.mosaics.count(split)
        told = (
            f"at most {most:,} mosaics in {split}, of {digits.count:,} images"
            if wanted > most
            else ""
        )
        facts.append((wanted <= most, told, f"{wanted:,}"))
    for true, expected, found in facts:
        if not true:
            findings.report("contradiction", MANIFEST, expected, found)
    return all(true for true, _, _ in facts)


def _due_sections(manifest: Manifest, findings: Findings) -> dict[str, Split]:
    """The sections that the recipe and the source ask for, of the tasks that are known here, by
    folder.
    """
    unknown = _unknown_tasks(manifest)
    for task in unknown:
        findings.skip(f"whether {task} is right: no task of that name is known here")
    known = tuple(task for task in manifest.recipe.tasks if task not in unknown)
    due = builder.splits(replace(manifest, recipe=replace(manifest.recipe, tasks=known)))
    return {section.folder: section for section in due}


def _unknown_tasks(manifest: Manifest) -> list[str]:
    return [task for task in manifest.recipe.tasks if task not in TASKS]


def _report_section(due: Split | None, claimed: Split | None, findings: Findings) -> None:
    """Tell in what the manifest's facts of a section are not those that follow from its recipe and
    its digits.
    """
    expected, found = (
        "none" if one is None else f"{one.count:,} samples" for one in (due, claimed)
    )
    if due and claimed and due.count == claimed.count:
        expected, found = (
            ", ".join(
                f"{column.name} {column.dtype} {list(column.shape)}" for column in one.columns
            )
            for one in (due, claimed)
        )
    findings.report("another section", MANIFEST, expected, found, due or claimed)


def _check_section(
    dataset: Dataset, section: Split, there: Inventory, belonging: set[str], findings: Findings
) -> list[Shard] | None:
    """Check a section's table, metadata, and the sizes of its shards; all that belongs to it joins
    `belonging`.

    Returns the shards whose files are there and can be read; None where it cannot be told what they
    are.
    """
    assert section.table is not None
    store = open_store(dataset.manifest.recipe.storage.format)
    rules = [store.path_rule(section, column) for column in section.columns]
    if not _check_bounds(section, rules, section.table, there, findings):
        return None
    stated = [*(column.path for column in section.columns), section.table.path]
    moved = [
        (rule, path)
        for rule, path in zip([*rules, section.table_path], stated, strict=True)
        if rule != path
    ]
    for rule, path in moved:
        findings.report("another path", MANIFEST, rule, path, section)
    framed = _check_listing(dataset.manifest, section, store, there, findings)
    belonging.update(rule.format(shard=shard) for rule in rules for shard in range(section.shards))
    belonging.add(section.table_path)
    if moved or not _check_file(dataset, section.table, there, findings, section):
        return None if moved else []
    if not _check_table(dataset, section, findings):
        return []
    misleading = store.frame_problems(dataset.root, section) if framed else []
    for problem in [*misleading, *_view_problems(dataset, section, store, there)]:
        findings.report("misleading", problem.path, problem.expected, problem.found, section)
    table = dataset.table(section.task, section.name)
    jobs = []
    for shard in range(section.shards):
        sizes = dict.fromkeys(
            (rule.format(shard=shard), int(row["file_bytes"]))
            for rule, row in zip(rules, table[:, shard], strict=True)
        )
        good = [_check_size(path, size, there, findings, section) for path, size in sizes]
        jobs += [Shard(section, shard)] * all(good)
    # it is done as the metadata say
    decodable = section.compression == "none" or (framed and not misleading)
    return jobs if decodable else []


def _view_problems(
    dataset: Dataset, section: Split, store: Store, there: Inventory
) -> list[Contradiction]:
    """Tell where the view of a section, if the manifest lists one, does not lead to the shards."""
    path = view_of(dataset, section)
    return (
        store.views.problems(dataset.root, section)
        if store.views and path and there.get(path, -1) >= 0
        else []
    )


def view_of(dataset: Dataset, section: Split) -> str | None:
    """Find the view that the manifest of a dataset written earlier lists for a section: its
    path.
    """
    views = open_store(dataset.manifest.recipe.storage.format).views
    path = views.path(section) if views else None
    return path if path in {file.path for file in dataset.manifest.files} else None


def _check_bounds(
    section: Split, rules: list[str], table: FileFacts, there: Inventory, findings: Findings
) -> bool:
    """Whether the section is of a size that its files can bear out, and that can be looked at."""
    size = section.table_bytes
    files, largest = (
        len(set(rules)) * section.shards,
        max(column.sample_bytes for column in section.columns),
    )
    if table.bytes != size:
        findings.report(
            "another size", MANIFEST, f"a table of {size:,} bytes", f"{table.bytes:,}", section
        )
    elif files > len(there) + _MISSING:
        findings.report(
            "missing",
            section.folder,
            f"{files:,} files of shards",
            f"{len(there):,} files in all",
            section,
        )
    elif largest * (1 if section.compression == "none" else CHUNK) > _MAX_DECODED:
        what = "a sample" if section.compression == "none" else f"a chunk of {CHUNK} samples"
        told = f"{what} of at most {_MAX_DECODED:,} bytes, to be looked at"
        findings.report("too large", MANIFEST, told, f"{largest:,} bytes a sample", section)
    else:
        return True
    return False


def _check_listing(
    manifest: Manifest, section: Split, store: Store, there: Inventory, findings: Findings
) -> bool:
    """Whether the metadata of a section are there; told is where the manifest lists others than
    just these.
    """
    listed = {file.path for file in manifest.files if file.path.startswith(f"{section.folder}/")}
    frame = set(store.frame_paths(section))
    for path in sorted(frame - listed):
        findings.report("not listed", MANIFEST, path, "no such file", section)
    for path in sorted(listed - set(_frame(store, section))):
        findings.report(
            "unexpected",
            path,
            "nothing among the shards",
            "a file that the manifest lists",
            section,
        )
    return all(there.get(path, -1) >= 0 for path in frame)


def _check_table(dataset: Dataset, section: Split, findings: Findings) -> bool:
    """Whether the table's own claims agree with each other and with the manifest."""
    try:
        table = dataset.table(section.task, section.name)
    except DatagenError as error:
        findings.report(
            "contradiction",
            section.table_path,
            "a table that agrees with the manifest",
            error.problem,
            section,
        )
        return False
    before = len(findings.problems)
    for column, line in zip(section.columns, table, strict=True):
        root = merkle_root([row.tobytes() for row in line["root"]]).hex()
        if root != column.root:
            findings.report(
                "contradiction",
                section.table_path,
                f"{column.name} with {column.root}",
                root,
                section,
            )
    return len(findings.problems) == before
