"""Test that verify finds, refuses or reports every plant, at each level and in both formats."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from forging import Tiny, build_tiny, copy_of, files, reseal
from helpers import FORMATS
from plants import LEVELS, PAGE, PLANTS, Found, Plant, Refused, Unseen, renewed

from datagen.cli import cli
from datagen.layout import MANIFEST
from datagen.manifest import load

FLIPS = 1000


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """The tiny dataset in each format; not to be damaged."""
    return cache(lambda name: build_tiny(tmp_path_factory.mktemp("whole") / name, name))


def run(root: Path, *options: object) -> Result:
    """Run `datagen verify --json` through the command line."""
    arguments = ["verify", str(root), "--json", "--workers", "1", *map(str, options)]
    return CliRunner().invoke(
        cli, arguments, env={"DATAGEN_SOURCE_DIR": ""}, catch_exceptions=False
    )


def verdict(root: Path, *options: object) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(run(root, *options).stdout)
    return facts


def options_of(level: str, tiny: Tiny, digest: str) -> list[object]:
    options: dict[str, list[object]] = {
        "quick": ["--quick"],
        "full": [],
        "source": ["--source-dir", tiny.source],
        "expect": ["--expect", digest],
    }
    return options[level]


def check(cell: Found | Refused | Unseen, result: Result, tiny: Tiny) -> None:
    """Assert the expectation of a cell."""
    if isinstance(cell, Refused):
        assert (result.exit_code, cell.message in result.stderr) == (cell.code, True), result.stderr
        assert str(tiny.root / MANIFEST) in result.stderr
        return
    facts = json.loads(result.stdout)
    if isinstance(cell, Unseen):
        assert (result.exit_code, facts["problems"]) == (0, [])
        assert any(matter.startswith(cell.matter) for matter in facts["not_looked_at"]), facts[
            "not_looked_at"
        ]
        return
    assert result.exit_code == 1
    path = tiny.path(cell.place)
    found = [one for one in facts["problems"] if one["kind"] == cell.kind and one["path"] == path]
    assert found, (cell, facts["problems"])
    if cell.index is not None:
        task, split = cell.place.split("/")[:2]
        wanted = {"task": task, "split": split, "index": cell.index}
        assert any(wanted.items() <= one.items() for one in found), found
    assert all(
        set(one) == {"kind", "path", "task", "split", "index", "expected", "found"} for one in found
    )


def cases(*, share: bool) -> Iterator[Any]:
    """List every plant in each of its formats, plain and resealed.

    The `share` of `make test` has each plant plain in one format and resealed in another; the rest
    is long.
    """
    for number, plant in enumerate(PLANTS):
        for place, name in enumerate(plant.formats):
            for forged in (False, True):
                often = len(plant.formats) == 1 or (number + place + forged) % 2 == 0
                marks = [pytest.mark.long] if share and not often else []
                seal = "resealed" if forged else "plain"
                yield pytest.param(
                    plant, name, forged, id=f"{plant.name}-{name}-{seal}", marks=marks
                )


def plant_and_check(plant: Plant, whole: Tiny, folder: Path, forged: bool, *, rest: bool) -> None:
    """Check a plant at quick, full, and where another cell is expected; or at the `rest`."""
    tiny = copy_of(whole, folder)
    digest = load(tiny.root).digest
    plant.damage(tiny)
    if forged:
        plant.forge(tiny)
    cells = {level: plant.cell(level, forged) for level in LEVELS}
    for level, cell in cells.items():
        if (level not in ("quick", "full") and cell == cells["full"]) == rest:
            check(cell, run(tiny.root, *options_of(level, tiny, digest)), tiny)


@pytest.mark.parametrize(("plant", "name", "forged"), list(cases(share=True)))
def test_a_plant_is_found_at_the_levels_that_can_find_it(
    plant: Plant, name: str, forged: bool, whole: Callable[[str], Tiny], tmp_path: Path
) -> None:
    plant_and_check(plant, whole(name), tmp_path, forged, rest=False)


@pytest.mark.long
@pytest.mark.parametrize(("plant", "name", "forged"), list(cases(share=False)))
def test_plants_found_at_full_are_also_found_with_the_source_or_the_digest(
    plant: Plant, name: str, forged: bool, whole: Callable[[str], Tiny], tmp_path: Path
) -> None:
    plant_and_check(plant, whole(name), tmp_path, forged, rest=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_dataset_has_no_problem_at_any_level(
    level: str, name: str, whole: Callable[[str], Tiny]
) -> None:
    tiny = whole(name)
    facts = verdict(tiny.root, *options_of(level, tiny, load(tiny.root).digest))
    stands = {"source": "the source", "expect": "the digest expected"}
    assert (facts["passed"], facts["problems"]) == (True, [])
    assert facts["stood_on"] == stands.get(level, "the dataset itself")
    assert any("whether these are the images" in matter for matter in facts["not_looked_at"]) == (
        level not in stands
    )
    assert (facts["not_looked_at"] == []) == (level == "source")


@pytest.mark.parametrize("name", FORMATS)
def test_the_forger_of_these_tests_is_careful(
    name: str, whole: Callable[[str], Tiny], tmp_path: Path
) -> None:
    tiny = copy_of(whole(name), tmp_path)
    before = {path: path.read_bytes() for path in files(tiny)}
    (tiny.root / MANIFEST).write_bytes(before[tiny.root / MANIFEST])
    reseal(tiny)
    assert {path: path.read_bytes() for path in files(tiny)} == before


def test_the_documented_table_matches_these_tests() -> None:
    assert renewed(PAGE.read_text()) == PAGE.read_text(), "run: python tests/tools/plants.py"


def places(tiny: Tiny, number: int, seed: int) -> list[tuple[Path, int, int]]:
    """Choose bits at random among those of all files: file, byte, mask."""
    chooser, sizes = random.Random(seed), {path: path.stat().st_size for path in files(tiny)}
    chosen = chooser.choices(list(sizes), weights=list(sizes.values()), k=number)
    return [(path, chooser.randrange(sizes[path]), 1 << chooser.randrange(8)) for path in chosen]


def invert(path: Path, position: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def check_flip(tiny: Tiny, path: Path, position: int, mask: int) -> None:
    """Assert that a flipped bit is found and its file named; then flip it back."""
    invert(path, position, mask)
    result = run(tiny.root)
    context = f"byte {position} of {path}, {mask}: {result.output[:1000]}"
    if path.name == MANIFEST:
        assert (result.exit_code in (4, 5), str(path) in result.stderr) == (True, True), context
    else:
        paths = {problem["path"] for problem in json.loads(result.stdout)["problems"]}
        assert (result.exit_code, path.relative_to(tiny.root).as_posix() in paths) == (1, True), (
            context
        )
    invert(path, position, mask)


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_each_of_a_thousand_flipped_bits_is_found_in_its_file(
    name: str, whole: Callable[[str], Tiny], tmp_path: Path
) -> None:
    tiny = copy_of(whole(name), tmp_path)
    for place in places(tiny, FLIPS, seed=1):
        check_flip(tiny, *place)
    assert verdict(tiny.root)["passed"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_bit_of_any_file_is_found_and_the_file_named(
    name: str, whole: Callable[[str], Tiny], tmp_path: Path
) -> None:
    tiny = copy_of(whole(name), tmp_path)
    chooser = random.Random(2)
    every = [path for path in files(tiny) if path.name != MANIFEST]
    small = {
        path
        for path in every
        if path.name in ("zarr.json", "all.h5", "recipe.toml") or path.suffix == ".shards"
    }
    for group in (
        small,
        set(every) - small,
    ):  # the samples of a split with a damaged table are skipped
        for path in sorted(group):
            invert(path, chooser.randrange(path.stat().st_size), 1 << chooser.randrange(8))
        named = {problem["path"] for problem in verdict(tiny.root)["problems"]}
        assert {path.relative_to(tiny.root).as_posix() for path in group} <= named
        shutil.rmtree(tiny.root)
        shutil.copytree(whole(name).root, tiny.root)
    for place in places(tiny, 20, seed=3):
        check_flip(tiny, *place)


@pytest.mark.parametrize("name", FORMATS)
def test_a_flipped_bit_of_the_manifest_is_refused(
    name: str, whole: Callable[[str], Tiny], tmp_path: Path
) -> None:
    tiny = copy_of(whole(name), tmp_path)
    chooser, path = random.Random(4), tiny.root / MANIFEST
    for _ in range(100):
        check_flip(tiny, path, chooser.randrange(path.stat().st_size), 1 << chooser.randrange(8))
