"""Test that the strategies draw every special case, and that the checker finds bad tasks."""

from __future__ import annotations

import doctest
import itertools
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import FORMATS, tree
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from datagen import foreground as foreground_rules
from datagen import otsu, testing
from datagen import recipe as recipe_rules
from datagen import sources as source_rules
from datagen.builder import build
from datagen.errors import DatagenError, InputError, RecipeError
from datagen.layout import MAX_BANDS, SPLITS, TASKS
from datagen.planning import Resolved, resolve_dataset
from datagen.recipe import COMPRESSIONS, MASKS, Foreground, Mosaics, Recipe
from datagen.sources.base import MAX_CLASSES, Part, Source, UInt8
from datagen.sources.split import divide
from datagen.split import Column
from datagen.tasks import Deriver, ImageFacts, Inputs, Task, one_per_digit
from datagen.tasks import find as find_task
from datagen.testing import (
    DAMAGES,
    KINDS,
    LAYOUTS,
    DamagedDataset,
    TinyDataset,
    check_task,
    damaged_datasets,
    datasets,
    image_facts,
    images,
    images_of,
    inputs,
    plant,
    recipes,
    save_source,
    sources,
)
from datagen.verifier import verify

Test = Callable[[Any], bool]

# Enough to draw each special case for any seed; nothing is shrunk or remembered.
searching = settings(
    database=None,
    max_examples=2000,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
a_few = settings(max_examples=25)
on_disk = settings(max_examples=3)
of_any_kind = settings(max_examples=settings().max_examples // 8)


def foreground(image: UInt8) -> npt.NDArray[np.bool_]:
    return np.asarray(image > otsu.threshold(image[None])[0])


def has_equal_peaks(image: UInt8) -> bool:
    first, second = sorted(np.bincount(image.ravel(), minlength=2))[:-3:-1]
    return bool(first == second > 1)


def has_two_thresholds(image: UInt8) -> bool:
    """Return whether another threshold, with another foreground, is as good as the smallest.

    In the mirrored image that one is the smallest.
    """
    return bool((foreground(image) != (image >= 255 - otsu.threshold(255 - image[None])[0])).any())


def is_one_row(mask: npt.NDArray[np.bool_]) -> bool:
    return bool(min(mask.shape) > 2 and mask.all(axis=1).sum() == mask.any(axis=1).sum() == 1)


# Images

IMAGES: dict[str, Test] = {
    "empty": lambda image: not image.any(),
    "constant": lambda image: bool(image.min() == image.max() == 255),
    "a single pixel": lambda image: image.size > 8 and np.count_nonzero(image) == 1,
    "one row": lambda image: is_one_row(foreground(image)),
    "one column": lambda image: is_one_row(foreground(image).T),
    "full": lambda image: image.size > 8 and np.count_nonzero(foreground(image)) == image.size - 1,
    "two equal peaks": lambda image: (
        image.size > 8 and has_equal_peaks(image) and image.min() < image.max()
    ),
    "two thresholds, equally good": has_two_thresholds,
    "strokes of three levels": lambda image: (
        image.size > 8 and len(np.unique(image)) == 3 and image.min() == 0
    ),
    "noise": lambda image: image.size > 8 and len(np.unique(image)) == image.size,
    "1x1": lambda image: image.shape == (1, 1),
    "a single line": lambda image: min(image.shape) == 1 and max(image.shape) > 8,
    "the largest": lambda image: image.shape == (12, 12),
    "bright on bright": lambda image: len(np.unique(image[image >= 192])) > 1,
}


def require_all(strategy: st.SearchStrategy[Any], cases: Mapping[str, Test]) -> None:
    """Draw until each case was met, all of them in one search."""
    unmet = dict(cases)

    def meets_the_last(drawn: Any) -> bool:
        for case in [case for case, test in unmet.items() if test(drawn)]:
            del unmet[case]
        return not unmet

    try:
        find(strategy, meets_the_last, settings=searching, random=Random(0))
    except NoSuchExample as error:
        raise AssertionError(f"never drawn: {', '.join(unmet)}") from error


def test_every_special_image_is_drawn() -> None:
    require_all(images(), IMAGES)


def test_a_case_that_is_never_met_is_named() -> None:
    with pytest.raises(AssertionError, match=r"never drawn: five levels$"):
        require_all(st.booleans(), {"yes": bool, "five levels": lambda drawn: drawn is None})


@given(st.data(), st.sampled_from(KINDS), st.integers(1, 30), st.integers(1, 30))
def test_every_kind_of_image_fits_every_shape(
    data: st.DataObject, kind: str, height: int, width: int
) -> None:
    image = data.draw(images((height, width), kinds=[kind]))
    assert image.dtype == np.uint8
    assert image.shape == (height, width)
    assert image.flags.c_contiguous
    image[:] = 0  # it is ours to change


def test_strokes_can_have_a_softer_edge() -> None:
    find(
        images(kinds=["strokes"]),
        lambda image: set(image.ravel()) == {0, 127, 255},
        settings=searching,
        random=Random(0),
    )


def test_images_shrink_to_a_single_empty_pixel_and_inked_ones_to_one_level() -> None:
    assert find(images(), lambda _: True).tolist() == [[0]]
    assert len(np.unique(find(images((3, 3)), np.any))) == 1


def test_unknown_kinds_are_reported_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"kinds of image: blob; there are empty, constant"):
        images(kinds=["empty", "blob"])
    with pytest.raises(ValueError, match=r"kinds of damage: rust; there are flipped bit"):
        find(damaged_datasets(kinds=["rust"]), lambda _: True, settings=searching)


# Images of other kinds


def has_masks(kind: str) -> Callable[[ImageFacts], bool]:
    return lambda facts: facts.masks == kind


FACTS: dict[str, Callable[[ImageFacts], bool]] = {
    "grey of 8 bits": lambda facts: (facts.bands, facts.dtype) == (None, "|u1"),
    "grey of 16 bits": lambda facts: (facts.bands, facts.dtype) == (None, "<u2"),
    "two bands": lambda facts: facts.bands == 2,
    "colours of 8 bits": lambda facts: (facts.bands, facts.dtype) == (3, "|u1"),
    "thirteen bands of 16 bits": lambda facts: (facts.bands, facts.dtype) == (13, "<u2"),
    "the most bands": lambda facts: facts.bands == MAX_BANDS,
    "no masks": lambda facts: facts.masks is None,
    **{f"masks: {kind}": has_masks(kind) for kind in MASKS},
    "groups": lambda facts: facts.grouped,
    "neither masks nor groups": lambda facts: facts.masks is None and not facts.grouped,
}
DEEP: dict[str, Test] = {
    "levels over the whole range": lambda image: set(image.ravel()) == {0, 65_535},
    "levels close together": lambda image: (
        image.size > 8 and image.min() > 0 and 0 < image.max() - image.min() < 256
    ),
    "levels that differ in the low byte only": lambda image: (
        len(np.unique(image)) > 1 and len(np.unique(image >> 8)) == 1 and image.min() > 255
    ),
    "noise": lambda image: image.size > 8 and len(np.unique(image)) == image.size,
    "empty": lambda image: not image.any(),
}


def test_every_kind_of_image_is_drawn() -> None:
    require_all(image_facts(), FACTS)


def test_every_special_image_of_16_bits_is_drawn() -> None:
    require_all(images_of(ImageFacts((3, 4), dtype="<u2")), DEEP)


def test_bands_may_be_equal_or_not() -> None:
    cases: dict[str, Test] = {
        "equal": lambda image: image.any() and bool((image == image[..., :1]).all()),
        "all unequal": lambda image: (
            len({image[..., band].tobytes() for band in range(image.shape[2])}) == 3
        ),
    }
    require_all(images_of(ImageFacts((2, 3), bands=3)), cases)


@given(st.data())
def test_images_of_a_kind_are_as_its_facts_say(data: st.DataObject) -> None:
    facts = data.draw(image_facts())
    image = data.draw(images_of(facts))
    assert image.dtype.str == facts.dtype
    assert image.shape == facts.tile + (() if facts.bands is None else (facts.bands,))
    assert image.flags.c_contiguous
    image[:] = 0  # it is ours to change


# Sources


def equal_images(part: Part, other: Part) -> list[tuple[int, int]]:
    pairs = itertools.product(range(len(part.labels)), range(len(other.labels)))
    return [(i, j) for i, j in pairs if np.array_equal(part.images[i], other.images[j])]


def twins(source: Source) -> list[tuple[int, int]]:
    """List the rows with equal images in one part."""
    return [
        pair
        for part in source.parts.values()
        for pair in equal_images(part, part)
        if pair[0] < pair[1]
    ]


def has_conflict(source: Source) -> bool:
    part = source.parts.get("train") or source.parts["all"]
    return any(part.labels[i] != part.labels[j] for i, j in equal_images(part, part))


def has_layout(layout: tuple[str, ...]) -> Test:
    return lambda source: tuple(source.parts) == layout


SOURCES: dict[str, Test] = {
    **{" ".join(layout): has_layout(layout) for layout in LAYOUTS},
    "a duplicate within a part": lambda source: bool(twins(source)),
    "a duplicate in two parts": lambda source: (
        "test" in source.parts and bool(equal_images(source.parts["train"], source.parts["test"]))
    ),
    "conflicting labels": has_conflict,
    "no duplicates": lambda source: "all" in source.parts and not twins(source),
    "one class": lambda source: len(source.classes) == 1,
    "the highest label": lambda source: any(
        (part.labels == MAX_CLASSES - 1).any() for part in source.parts.values()
    ),
    "one that the default recipe cannot divide": lambda source: not divides(source, None, 0),
}


def divides(source: Source, val: int | None, seed: int) -> bool:
    try:
        divide(source, val=val, seed=seed)
    except (InputError, RecipeError):
        return False
    return True


def test_every_special_source_is_drawn() -> None:
    require_all(sources(), SOURCES)


@a_few
@given(sources(), st.none() | st.integers(1, 12), st.integers(0, 99))
def test_a_source_is_divided_or_refused_with_an_error_of_the_package(
    source: Source, val: int | None, seed: int
) -> None:
    if divides(source, val, seed):
        digits = divide(source, val=val, seed=seed).digits
        assert all(len(digits[split].labels) for split in SPLITS)


@a_few
@given(sources())
def test_a_saved_source_is_read_as_the_same_one(source: Source) -> None:
    with tempfile.TemporaryDirectory() as folder:
        read = source_rules.load(f"npz:{save_source(source, Path(folder) / 'source.npz')}")
    assert replace(read, parts={}) == replace(source, parts={})
    assert list(read.parts) == list(source.parts)
    for name, part in source.parts.items():
        np.testing.assert_array_equal(read.parts[name].images, part.images, strict=True)
        np.testing.assert_array_equal(read.parts[name].labels, part.labels, strict=True)


def of_every_kind(**others: Any) -> st.SearchStrategy[Source]:
    return image_facts().flatmap(lambda facts: sources(facts=facts, **others))


def has_kind(source: Source) -> bool:
    """Return whether a source has all that can be new at once."""
    part = next(iter(source.parts.values()))
    return (
        part.images.ndim == 4
        and part.images.dtype.itemsize == 2
        and part.masks is not None
        and part.groups is not None
    )


KINDS_OF_SOURCES: dict[str, Test] = {
    "everything at once": has_kind,
    "masks of the highest class": lambda source: len(source.mask_classes) == MAX_CLASSES,
    "pixels that are neither": lambda source: any(
        part.masks is not None and (part.masks == 255).any() for part in source.parts.values()
    ),
    "a group of several images": lambda source: (
        0 < len(source.group_names) < sum(len(part.labels) for part in source.parts.values())
    ),
    "equal images in unequal groups": lambda source: (
        "train" in source.parts
        and any(
            source.parts["train"].groups is not None
            and source.parts["train"].groups[i] != source.parts["train"].groups[j]
            for i, j in equal_images(source.parts["train"], source.parts["train"])
        )
    ),
}


@pytest.mark.long  # a search for every case
def test_every_special_source_of_other_kinds_is_drawn() -> None:
    require_all(of_every_kind(), KINDS_OF_SOURCES)


@a_few
@given(st.data(), st.booleans())
def test_a_saved_source_of_any_kind_is_read_as_the_same_one(
    data: st.DataObject, labelled: bool
) -> None:
    source = data.draw(of_every_kind(labelled=labelled))
    recipe = data.draw(recipes(source))
    assert (recipe.tasks == ("foreground",)) == (not labelled) == (not source.classes)
    with tempfile.TemporaryDirectory() as folder:
        path = save_source(source, Path(folder) / "source.npz")
        read = source_rules.load(f"npz:{path}", recipe=recipe)
    assert replace(read, parts={}) == replace(source, parts={})
    assert list(read.parts) == list(source.parts)
    for name, part in source.parts.items():
        for field in ("images", "labels", "masks", "groups"):
            found, expected = getattr(read.parts[name], field), getattr(part, field)
            np.testing.assert_array_equal(found, expected, strict=expected is not None)


@given(sources(facts=ImageFacts((1, 1), masks="classes"), max_images=2))
def test_masks_of_classes_have_at_least_one_class(source: Source) -> None:
    masks = np.concatenate([part.masks for part in source.parts.values() if part.masks is not None])
    assert ((masks > 0) & (masks < foreground_rules.IGNORE)).any()


@a_few
@given(
    sources(
        parts=("train", "val", "test"), shape=(3, 2), max_classes=4, max_images=2, duplicates=False
    )
)
def test_sources_have_the_requested_properties(source: Source) -> None:
    assert list(source.parts) == ["train", "val", "test"]
    assert all(part.images.shape[1:] == (3, 2) for part in source.parts.values())
    assert all(len(part.labels) <= 2 for part in source.parts.values())
    assert len(source.classes) <= 4
    assert not twins(source)


# Recipes and inputs


@given(recipes())
def test_a_recipe_equals_its_toml(recipe: Recipe) -> None:
    assert recipe_rules.parse(recipe_rules.to_toml(recipe), origin="drawn") == recipe


@pytest.mark.parametrize("drawn", [sources, of_every_kind], ids=["grey", "of every kind"])
@a_few
@given(data=st.data())
def test_a_recipe_for_a_source_can_be_built_from_it(
    drawn: Callable[[], st.SearchStrategy[Source]], data: st.DataObject
) -> None:
    source = data.draw(drawn())
    recipe = data.draw(recipes(source))
    assert recipe_rules.from_table(recipe_rules.to_table(recipe), origin="drawn") == recipe
    resolved = Resolved(recipe, source)
    for split in SPLITS:
        for task in recipe.tasks:
            assert resolved.sample(task, split, 0)


RULES: dict[str, Test] = {
    "Otsu's threshold of the luma": lambda recipe: recipe.foreground == Foreground("luma"),
    "dark on light": lambda recipe: recipe.foreground.side == "below",
    "a level": lambda recipe: (recipe.foreground.level or 0) > 100,
    "the last band": lambda recipe: recipe.foreground.values == "band 2",
    "a size": lambda recipe: recipe.size is not None,
    "shares": lambda recipe: recipe.split is not None,
    "names of groups": lambda recipe: recipe.group_names,
}
GIVEN: dict[str, Test] = {
    "masks: binary": lambda recipe: recipe.foreground.masks == "binary",
    "masks: instances": lambda recipe: recipe.foreground.masks == "instances",
}


def test_every_special_rule_for_a_source_is_drawn() -> None:
    colours = ImageFacts((3, 2), bands=3, grouped=True)
    require_all(sources(facts=colours, parts=("all",)).flatmap(recipes), RULES)
    masked = sources(facts=ImageFacts((3, 2), masks="binary"))
    require_all(masked.flatmap(recipes), GIVEN)


RECIPES: dict[str, Test] = {
    "two shards of mosaics": lambda recipe: recipe.mosaics.train > recipe.storage.shard_size,
    "a whole shard of mosaics": lambda recipe: recipe.mosaics.train == recipe.storage.shard_size,
    "a grid that is not square": lambda recipe: recipe.mosaics.grid == (1, 2),
    "a val of its own": lambda recipe: recipe.val == 2,
    "hdf5, compressed": lambda recipe: (
        (recipe.storage.format, recipe.storage.compression) == ("hdf5", "zstd")
    ),
}


def test_every_special_recipe_for_a_source_is_drawn() -> None:
    images = np.arange(16 * 6, dtype=np.uint8).reshape(2, 8, 3, 2)
    labels = np.arange(8, dtype=np.uint8)
    parts = {name: Part(images[i], labels) for i, name in enumerate(("train", "test"))}
    require_all(recipes(Source("npz", parts, tuple("01234567"), {}, "", "")), RECIPES)


def test_a_source_that_no_recipe_can_divide_is_refused() -> None:
    lone = Part(np.zeros((1, 2, 2), np.uint8), np.zeros(1, np.uint8))
    source = Source("npz", {"all": lone}, ("0",), {}, "", "")
    with pytest.raises(InputError, match="no images left"):
        find(recipes(source), lambda _: True, settings=searching)


@a_few
@given(inputs(max_digits=4))
def test_inputs_hold_distinct_digits_with_their_exact_thresholds(inputs: Inputs) -> None:
    count = len(inputs.images)
    assert 1 <= count <= 4
    assert len({image.tobytes() for image in inputs.images}) == count
    assert inputs.thresholds.tolist() == otsu.threshold(inputs.images).tolist()
    assert inputs.labels.shape == (count,)
    rows, columns = inputs.mosaics.grid
    assert all(inputs.mosaics.count(split) <= count ** (rows * columns) for split in SPLITS)


@a_few
@given(st.data())
def test_inputs_of_any_kind_are_as_their_facts_say(data: st.DataObject) -> None:
    facts = data.draw(image_facts())
    drawn = data.draw(inputs(facts=facts, max_digits=4))
    assert drawn.facts == facts
    assert len({image.tobytes() for image in drawn.images}) == len(drawn.images)
    expected = foreground_rules.thresholds(drawn.images, drawn.rule)
    assert facts.masks or drawn.thresholds.tolist() == expected.tolist()


# The rules of the foreground


def derived(inputs: Inputs, task: str) -> dict[str, npt.NDArray[Any]]:
    """Derive the first samples of a task."""
    one = find_task(task)
    count = min(one.count(len(inputs.images), inputs.mosaics, inputs.split), 50)
    columns = one.columns(inputs.facts, inputs.mosaics)
    out = {column.name: np.empty((count, *column.shape), column.dtype) for column in columns}
    one.deriver(inputs)(np.arange(count), out)
    return out


thresholded = (
    image_facts()
    .map(lambda facts: replace(facts, masks=None))
    .flatmap(lambda facts: inputs(facts=facts, max_digits=4))
)


@a_few
@given(thresholded, st.sampled_from(TASKS))
def test_dark_on_light_is_light_on_dark_of_the_negative(inputs: Inputs, task: str) -> None:
    """Compare rules of one band: the negative of a mean or a maximum is not that of the bands."""
    values = "grey" if inputs.facts.bands is None else "band 1"
    dark, light = (Foreground(values, side) for side in ("below", "above"))
    negative = ~inputs.images
    below = replace(inputs, rule=dark, thresholds=foreground_rules.thresholds(inputs.images, dark))
    above = replace(
        inputs,
        rule=light,
        images=negative,
        thresholds=foreground_rules.thresholds(negative, light),
    )
    expected, found = derived(above, task), derived(below, task)
    np.testing.assert_array_equal(found["image"], ~expected["image"])
    for name in expected.keys() - {"image", "threshold", "digest"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert task != "foreground" or (found["threshold"] == ~expected["threshold"]).all()


@a_few
@given(thresholded, st.sampled_from(TASKS), st.sampled_from(("binary", "instances")))
def test_a_given_mask_is_as_good_as_the_rule_that_made_it(
    inputs: Inputs, task: str, kind: str
) -> None:
    masks = inputs.foreground(np.arange(len(inputs.images)))
    given_masks = replace(inputs, rule=Foreground(by="given", masks=kind), given=masks)
    expected, found = derived(inputs, task), derived(given_masks, task)
    assert found.keys() == expected.keys() - {"threshold"}
    for name, column in found.items():
        np.testing.assert_array_equal(column, expected[name], err_msg=name)


# Datasets


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_dataset_is_whole_when_checked_against_its_source(
    format_name: str, compression: str
) -> None:
    @on_disk
    @given(datasets(format=format_name, compression=compression))
    def check(dataset: TinyDataset) -> None:
        verdict = verify(dataset.root, source_dir=dataset.source_path)
        assert (verdict.problems, verdict.checked_against) == ((), "the source")
        storage = resolve_dataset(dataset.root, directory=dataset.source_path).recipe.storage
        assert (storage.format, storage.compression) == (format_name, compression)
        assert resolve_dataset(dataset.root, directory=dataset.source_path).plan == (
            Resolved(dataset.recipe, dataset.source).plan
        )

    check()


@of_any_kind
@given(image_facts().flatmap(lambda facts: datasets(facts=facts)))
def test_a_dataset_of_any_kind_is_whole_when_checked_against_its_source(
    dataset: TinyDataset,
) -> None:
    verdict = verify(dataset.root, source_dir=dataset.source_path)
    assert (verdict.problems, verdict.checked_against) == ((), "the source")
    assert verify(dataset.root).problems == ()
    planned = Resolved(dataset.recipe, dataset.source).plan
    assert resolve_dataset(dataset.root, directory=dataset.source_path).plan == planned


@of_any_kind
@given(image_facts().flatmap(lambda facts: datasets(facts=facts)), st.data())
def test_a_forged_mask_of_any_kind_is_found(dataset: TinyDataset, data: st.DataObject) -> None:
    task = data.draw(st.sampled_from(TASKS))
    sample = Resolved(dataset.recipe, dataset.source).sample(task, "train", 0)
    mask = np.array(sample["mask"], np.uint8)
    mask.reshape(-1)[data.draw(st.integers(0, mask.size - 1))] ^= 1
    root = plant(dataset, task, "train", "mask", 0, mask)
    problems = verify(root, source_dir=dataset.source_path).problems
    assert (task, "train", 0) in {(one.task, one.split, one.index) for one in problems}


@on_disk
@given(datasets(format="hdf5"))
def test_copies_of_a_dataset_can_be_changed(dataset: TinyDataset) -> None:
    other = TinyDataset(dataset.source, dataset.recipe)
    whole = tree(other.root)
    for path in dataset.root.rglob("*.h5"):
        path.unlink()
    assert tree(other.root) == whole
    assert tree(TinyDataset(dataset.source, dataset.recipe).root) == whole
    built = build(dataset.recipe, dataset.root, directory=dataset.source_path)
    assert (built.kept, tree(dataset.root)) == (0, whole)


def test_equal_datasets_are_built_once_and_few_copies_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = find(datasets(format="hdf5"), lambda _: True, settings=searching)
    first = dataset.root
    monkeypatch.setattr(testing.damage, "_write", None)
    others = [TinyDataset(dataset.source, dataset.recipe).root for _ in range(16)]
    assert not first.exists()
    assert all((root / "manifest.json").exists() for root in others)


def test_nothing_remains_when_the_process_ends() -> None:
    script = """
        from hypothesis import Phase, find, settings
        from datagen.testing import datasets
        once = settings(database=None, deadline=None, phases=[Phase.generate])
        root = find(datasets(format="hdf5"), lambda _: True, settings=once).root
        assert (root / "manifest.json").exists()
        print(root.parent.parent)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    place = Path(ran.stdout.strip())
    assert place.name.startswith("datagen-testing-")
    assert not place.exists()


# Damage


def is_whole(root: Path) -> bool:
    try:
        return not verify(root).problems
    except DatagenError:
        return False


@pytest.mark.parametrize("examples", [2, pytest.param(25, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_damaged_dataset_verifies_whole(kind: str, examples: int) -> None:
    @settings(max_examples=examples)
    @given(damaged_datasets(kinds=[kind]))
    def check(damaged: DamagedDataset) -> None:
        assert not is_whole(damaged.root), damaged

    check()


@on_disk
@given(damaged_datasets(format="hdf5"))
def test_damage_is_at_the_stated_place_and_the_original_is_whole(
    damaged: DamagedDataset,
) -> None:
    whole, found = tree(damaged.whole.root), tree(damaged.root)
    different = {path for path in {*whole, *found} if whole.get(path) != found.get(path)}
    link = (damaged.root / damaged.path).is_symlink()
    assert damaged.path in different or link
    assert str(damaged).startswith(f"{damaged.path}: {damaged.kind}: ")
    assert is_whole(damaged.whole.root)


@on_disk
@given(damaged_datasets(kinds=["wrong sample"]))
def test_a_wrong_sample_is_damage_that_no_digest_shows(damaged: DamagedDataset) -> None:
    assert verify(damaged.root, quick=True).problems == ()
    problems = verify(damaged.root).problems
    assert problems
    assert all(problem.task is not None for problem in problems), (
        "a file is not as the manifest says"
    )


def test_a_planted_value_is_found_and_named() -> None:
    dataset = find(datasets(format="hdf5"), lambda _: True, settings=searching)
    threshold = int(
        Resolved(dataset.recipe, dataset.source).sample("foreground", "val", 0)["threshold"]
    )
    root = plant(dataset, "foreground", "val", "threshold", 0, threshold ^ 1)
    (problem,) = verify(root).problems
    assert (problem.kind, problem.index) == ("wrong threshold", 0)
    assert (problem.expected, problem.found) == (str(threshold), str(threshold ^ 1))
    with pytest.raises(ValueError, match="nothing would be wrong"):
        plant(dataset, "foreground", "val", "threshold", 0, threshold)
    with pytest.raises(
        RecipeError, match=r"no column box \(expected one of image, mask, threshold\)"
    ):
        plant(dataset, "foreground", "val", "box", 0, 1)
    with pytest.raises(RecipeError, match="no such sample"):
        plant(dataset, "foreground", "val", "threshold", 99, 1)


# Tasks


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_of_the_package_pass_the_checks(name: str) -> None:
    @a_few
    @given(inputs() | image_facts().flatmap(lambda facts: inputs(facts=facts)))
    def check(inputs: Inputs) -> None:
        check_task(find_task(name), inputs)

    check()


Out = Mapping[str, npt.NDArray[Any]]
Indices = npt.NDArray[np.int64]
DIGITS = Inputs(
    split="train",
    images=np.arange(40, dtype=np.uint8).reshape(10, 2, 2),
    labels=np.arange(10, dtype=np.uint8),
    thresholds=np.arange(10, dtype=np.uint8),
    mosaics=Mosaics((1, 1), 10, 10, 10),
    seed=0,
)
VALUE = Column("value", "<u4", (2,), ("place",))


def a_task(
    derive: Callable[[Inputs, Indices, Out], None],
    *columns: Column,
    name: str = "values",
    count: Any = one_per_digit,
) -> Task:
    def deriver(inputs: Inputs) -> Deriver:
        return lambda indices, out: derive(inputs, indices, out)

    return Task(name, lambda tile, mosaics: columns or (VALUE,), count, deriver)


def rightly(inputs: Inputs, indices: Indices, out: Out) -> None:
    out["value"][:] = inputs.labels[indices, None]


def half(inputs: Inputs, indices: Indices, out: Out) -> None:
    out["value"][:, 0] = inputs.labels[indices]


def all_but_zeros(inputs: Inputs, indices: Indices, out: Out) -> None:
    for row, index in enumerate(indices):
        if inputs.labels[index]:
            out["value"][row] = inputs.labels[index]


def into_another_array(inputs: Inputs, indices: Indices, out: Out) -> None:
    assert isinstance(out, dict)
    out["value"] = np.zeros_like(out["value"])


def the_place_in_the_block(inputs: Inputs, indices: Indices, out: Out) -> None:
    out["value"][:] = np.arange(len(out["value"]))[:, None]


def the_sum_of_the_block(inputs: Inputs, indices: Indices, out: Out) -> None:
    out["value"][:] = inputs.labels[indices].sum()


def writing_to_its_inputs(inputs: Inputs, indices: Indices, out: Out) -> None:
    rightly(inputs, indices, out)
    inputs.images[indices[0]] += 1


def in_need_of_writable_inputs(inputs: Inputs, indices: Indices, out: Out) -> None:
    rightly(inputs, indices, out)
    inputs.images[indices[0]] += 0


def as_if_they_followed_each_other(inputs: Inputs, indices: Indices, out: Out) -> None:
    out["value"][:] = indices[0] + np.arange(len(indices))[:, None]


def at_random(inputs: Inputs, indices: Indices, out: Out) -> None:
    out["value"][:] = np.random.default_rng().integers(1 << 32, size=out["value"].shape)


def test_a_correct_task_passes() -> None:
    check_task(a_task(rightly), DIGITS)


@pytest.mark.parametrize(
    ("derive", "complaint"),
    [
        (half, "values: value of sample 0 is not filled completely"),
        (all_but_zeros, "values: value of sample 0 is not filled completely"),
        (into_another_array, "values: value of sample 0 is not filled completely"),
        (the_place_in_the_block, "value of sample 1 differs in blocks of 1"),
        (the_sum_of_the_block, "value of sample 0 differs in blocks of 1"),
        (
            as_if_they_followed_each_other,
            "value of sample 1 differs among samples that do not follow",
        ),
        (writing_to_its_inputs, "deriving writes to inputs.images"),
        (at_random, "value of sample 0 differs the second time"),
    ],
)
def test_a_wrong_task_is_refused_with_the_reason(
    derive: Callable[[Inputs, Indices, Out], None], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_task(a_task(derive), DIGITS)


def test_a_task_that_needs_writable_inputs_fails_where_it_writes() -> None:
    with pytest.raises(ValueError, match="read-only"):
        check_task(a_task(in_need_of_writable_inputs), DIGITS)


def test_state_that_changes_between_calls_is_found() -> None:
    calls = itertools.count()

    def derive(inputs: Inputs, indices: Indices, out: Out) -> None:
        out["value"][:] = next(calls)

    with pytest.raises(AssertionError, match="differs the second time"):
        check_task(a_task(derive), DIGITS)


def test_an_error_only_at_the_end_of_a_long_split_is_found() -> None:
    def derive(inputs: Inputs, indices: Indices, out: Out) -> None:
        out["value"][indices < 1000] = 7

    task = a_task(derive, count=lambda digits, mosaics, split: 1001)
    with pytest.raises(AssertionError, match=r"value of sample 1,000 is not filled completely"):
        check_task(task, DIGITS)


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        (a_task(rightly, name="My Values"), "My Values"),
        (a_task(rightly, Column("value", "<f4", (2,), ("place",))), "dtype must be one of"),
        (a_task(rightly, Column("value", "<u4", (2,), ())), "axes must name each axis"),
        (
            a_task(rightly, Column("value", "<u4", (0,), ("place",))),
            "must be the shape of a sample",
        ),
        (a_task(rightly, VALUE, VALUE), "two columns have the same name"),
        (a_task(rightly, count=lambda *_: 0), "count must be an integer from 1"),
        (a_task(rightly, count=lambda *_: np.int64(3)), "count must be an integer from 1"),
    ],
)
def test_a_task_that_no_manifest_can_hold_is_refused(task: Task, complaint: str) -> None:
    with pytest.raises(
        AssertionError, match=f"no dataset can hold what it declares: .*{complaint}"
    ):
        check_task(task, DIGITS)


# The package


def test_without_hypothesis_the_remedy_is_reported() -> None:
    script = "import sys; sys.modules['hypothesis'] = None; import datagen.testing"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (
        ran.stderr.splitlines()[-1]
        == "ImportError: datagen.testing needs hypothesis: pip install hypothesis"
    )


@pytest.mark.parametrize(
    "name", ["testing", "testing.strategies", "testing.rules", "testing.damage"]
)
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    settings.register_profile("as before", settings())
    settings.register_profile("few for docstrings", settings(), max_examples=4)
    settings.load_profile("few for docstrings")  # the examples show @given without settings
    try:
        assert doctest.testmod(import_module(f"datagen.{name}")).failed == 0
    finally:
        settings.load_profile("as before")


def test_every_public_function_has_an_example() -> None:
    functions = [
        getattr(testing, name) for name in testing.__all__ if callable(getattr(testing, name))
    ]
    lacking = [
        one.__name__
        for one in functions
        if not isinstance(one, type) and ">>>" not in (one.__doc__ or "")
    ]
    assert lacking == []
