"""Test that whole groups go to one split each, in what shares, and what verify finds of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from datagen import builder, manifest, planning, recipe, sources, writer
from datagen.dataset import Dataset
from datagen.errors import FormatError, InputError, RecipeError, StorageError
from datagen.hashing import bytes_digest
from datagen.layout import GROUPS, MANIFEST, RECIPE, SPLITS
from datagen.recipe import Recipe, Size
from datagen.sources import assignment, split
from datagen.sources.base import Part, Source, group_names_text, number_groups
from datagen.sources.sizes import fitted
from datagen.split import FileFacts, Split
from datagen.tasks import Deriver
from datagen.verifier import verify

Array = npt.NDArray[Any]

TINY = recipe.from_table(
    {"source": "npz", "tasks": ["foreground"], "mosaics": {"train": 1, "val": 1, "test": 1}},
    origin="tests",
)


def images(count: int, start: int = 0) -> npt.NDArray[np.uint8]:
    """Images of 1x4 pixels, all different."""
    return np.arange(start, start + count, dtype=">u4").view(np.uint8).reshape(-1, 1, 4)


def grouped(classes: Sequence[str] = ("a",), **parts: Sequence[tuple[str, int]]) -> Source:
    """A source of parts, each a list of (group, label), one an image."""
    groups, names = number_groups({part: [name for name, _ in parts[part]] for part in parts})
    start = 0
    made = {}
    for part, listed in parts.items():
        labels = np.array([label for _, label in listed], np.uint8)
        made[part] = Part(images(len(listed), start), labels, groups=groups[part])
        start += len(listed)
    return Source("images", made, tuple(classes), {}, "", "", group_names=names)


def require_apart(division: split.Division) -> None:
    """Check that no group is in two splits, and that every row of a group came along."""
    seen: dict[int, str] = {}
    for name, digits in division.digits.items():
        assert digits.groups is not None
        for group in digits.groups.tolist():
            assert seen.setdefault(group, name) == name


NAMES = st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(0, 2)), min_size=3)


def has_three(listed: Sequence[tuple[str, int]]) -> bool:
    return len({name for name, _ in listed}) >= 3


def test_the_key_of_a_group_is_that_of_its_name() -> None:
    digest = xxhash.xxh3_128_digest("Gänse/7".encode())
    expected = int.from_bytes(hashlib.sha256(b"datagen split 5 " + digest).digest()[:8])
    assert assignment.group_keys(["Gänse/7"], 5).tolist() == [expected]


@given(
    st.lists(st.sampled_from([f"g{number}" for number in range(40)]), min_size=40),
    st.integers(0, 99),
)
def test_the_key_of_its_group_decides_the_split_of_an_image(names: list[str], seed: int) -> None:
    source = grouped(all=[(name, 0) for name in names])
    expected = {}
    for name in set(names):
        key = int(assignment.group_keys([name], seed)[0])
        expected[name] = {0: "test", 1: "val"}.get(key % 10, "train")
    if set(expected.values()) != set(SPLITS):
        with pytest.raises(InputError, match="no images left for"):
            split.divide(source, val=None, seed=seed)
        return
    division = split.divide(source, val=None, seed=seed)
    require_apart(division)
    for name, digits in division.digits.items():
        assert {names[row] for row in digits.origin} == {
            group for group in expected if expected[group] == name
        }


@given(NAMES.filter(has_three), st.integers(0, 99))
def test_shares_give_each_split_whole_groups(listed: list[tuple[str, int]], seed: int) -> None:
    source = grouped("abc", all=listed)
    division = split.divide(source, val=None, seed=seed, shares=(60, 20, 20))
    require_apart(division)
    assert sum(len(digits.labels) for digits in division.digits.values()) == len(listed)
    assert all(len(digits.labels) for digits in division.digits.values())


def test_many_small_groups_come_close_to_the_shares_of_each_class() -> None:
    listed = [(f"g{row // 5}", row // 500) for row in range(1000)]
    division = split.divide(grouped("ab", all=listed), val=None, seed=3, shares=(70, 10, 20))
    for share, digits in zip((70, 10, 20), division.digits.values(), strict=True):
        for count in np.bincount(digits.labels):
            assert abs(count - 5 * share) <= 5
    assert division.remarks == ()


def test_groups_that_forbid_the_shares_are_told_in_figures() -> None:
    listed = [("big", 0)] * 50 + [("b", 0)] * 20 + [("c", 0)] * 20 + [("d", 0)] * 10
    division = split.divide(grouped(all=listed), val=None, seed=0, shares=(80, 10, 10))
    (remark,) = division.remarks
    sizes = {name: len(digits.labels) for name, digits in division.digits.items()}
    assert remark.startswith("Whole groups do not divide 80/10/10: train ")
    assert f"val {sizes['val']}.0% ({sizes['val']} images in 1 group)" in remark


@given(st.lists(st.integers(0, 3), min_size=30, max_size=200), st.integers(0, 99))
def test_shares_are_kept_class_by_class(labels: list[int], seed: int) -> None:
    contents = images(len(labels))
    source = Source(
        "npz", {"all": Part(contents, np.array(labels, np.uint8))}, tuple("abcd"), {}, "", ""
    )
    keys = assignment.keys(contents, seed)
    split_of = assignment.by_shares(source.parts["all"].labels, keys, (60, 15, 25))
    for label, count in Counter(labels).items():
        rows = [row for row in range(len(labels)) if labels[row] == label]
        for number, share in enumerate((60, 15, 25)):
            got = sum(split_of[row] == number for row in rows)
            assert abs(100 * got - share * count) < 100
        order = sorted(rows, key=lambda row: int(keys[row]))
        assert [split_of[row] for row in order] == sorted(
            (split_of[row] for row in rows),
            reverse=True,  # test, val, train
        )


def test_equal_remainders_go_to_the_split_that_lacks_most() -> None:
    labels = np.repeat(np.arange(4, dtype=np.uint8), 5)
    split_of = assignment.by_shares(labels, np.arange(20, dtype=np.uint64), (80, 10, 10))
    counts = [Counter(split_of[labels == label].tolist()) for label in range(4)]
    assert [(count[1], count[2]) for count in counts] == [(0, 1), (1, 0), (0, 1), (1, 0)]


def test_equal_images_of_a_class_count_as_one() -> None:
    keys = np.array([5, 1, 5, 5, 2, 3, 4], np.uint64)
    split_of = assignment.by_shares(np.zeros(7, np.uint8), keys, (60, 20, 20))
    assert split_of.tolist() == [0, 2, 0, 0, 1, 0, 0]


def test_a_val_is_held_out_of_whole_groups() -> None:
    listed = [(f"g{row // 4}", 0) for row in range(40)]
    source = grouped(train=listed, test=[("t", 0)])
    division = split.divide(source, val=6, seed=1)
    require_apart(division)
    order = sorted(range(10), key=lambda one: int(assignment.group_keys([f"g{one}"], 1)[0]))
    val = division.digits["val"]
    assert val.groups is not None
    assert set(val.groups.tolist()) == set(order[:2])
    assert division.remarks == (
        "val takes 8 images of train in 2 whole groups, where 6 images were asked.",
    )


def test_a_val_never_takes_the_last_group() -> None:
    listed = [("a", 0), ("b", 0), ("b", 0)]
    source = grouped(train=listed, test=[("t", 0)])
    sizes = {
        len(split.divide(source, val=None, seed=seed).digits["val"].labels) for seed in range(9)
    }
    assert sizes == {1, 2}
    with pytest.raises(RecipeError, match="val = 2 cannot be met by whole groups of images"):
        for seed in range(9):
            split.divide(source, val=2, seed=seed)
    with pytest.raises(InputError, match="train is one group"):
        split.divide(grouped(train=[("a", 0)] * 9, test=[("t", 0)]), val=None, seed=0)


def test_a_group_in_two_parts_is_refused() -> None:
    source = grouped(
        train=[("a", 0), ("b", 0), ("c", 0), ("a", 0)], val=[("v", 0)], test=[("a", 0), ("c", 0)]
    )
    with pytest.raises(InputError) as caught:
        split.divide(source, val=None, seed=0)
    assert caught.value.problem == (
        "2 problems:\n  group 'a': 2 images in train, 1 images in test"
        "\n  group 'c': 1 images in train, 1 images in test"
    )


def test_shares_of_a_source_that_comes_split_are_refused() -> None:
    source = grouped(train=[("a", 0), ("b", 0)], test=[("t", 0)])
    with pytest.raises(RecipeError, match="images comes split"):
        split.divide(source, val=None, seed=0, shares=(80, 10, 10))


def test_a_twin_in_another_group_is_left_out_and_told() -> None:
    source = grouped(train=[("a", 0), ("b", 0), ("c", 0)], val=[("v", 0)], test=[("t", 0)])
    train, test = source.parts["train"], source.parts["test"]
    twin = replace(test, images=train.images[1:2])
    division = split.divide(replace(source, parts={**source.parts, "test": twin}), val=None, seed=0)
    assert division.dropped["train"] == split.Dropped(0, 1)
    assert division.digits["train"].groups is not None
    assert division.digits["train"].groups.tolist() == [0, 2]
    assert division.remarks == (
        "1 image left out for a twin in another group: if these groups are one thing under two"
        " names, let them be one group.",
    )


def test_equal_images_with_other_masks_are_conflicts() -> None:
    contents = images(3)[[0, 0, 1, 1, 2]]
    masks = np.zeros((5, 1, 4), np.uint8)
    masks[1, 0, 2] = 1
    parts = {
        "train": Part(contents, np.zeros(5, np.uint8), masks),
        "val": Part(images(1, 10), np.zeros(1, np.uint8), masks[:1]),
        "test": Part(images(1, 11), np.zeros(1, np.uint8), masks[:1]),
    }
    source = Source("images", parts, ("a",), {}, "", "")
    division = split.divide(source, val=None, seed=0)
    assert division.conflicts == (split.Conflict("train", 0, 0, "train", 1, 0, True),)
    given_masks = recipe.changed(TINY, foreground={"by": "given", "masks": "binary"})
    (listed,) = planning.Resolved(given_masks, source).plan.source.conflicts_listed
    assert listed == (
        "train[1] = 0 left out of train, train[0] = 0 kept in train, with another mask"
    )
    unnamed = planning.Resolved(given_masks, replace(source, classes=()))
    assert unnamed.plan.source.conflicts_listed == (
        "train[1] left out of train, train[0] kept in train, with another mask",
    )


def test_classes_that_a_split_lacks_and_uneven_classes_are_told() -> None:
    train = Part(images(2002), np.array([0] * 2000 + [1, 2], np.uint8))
    rest = {
        name: Part(images(2, start), np.array([0, 1], np.uint8))
        for name, start in (("val", 5000), ("test", 6000))
    }
    source = Source("npz", {"train": train, **rest}, ("a", "b", "c", "none"), {}, "", "")
    assert split.divide(source, val=None, seed=0).remarks == (
        "val has no image of 1 of 3 classes: 'c'.",
        "test has no image of 1 of 3 classes: 'c'.",
        "The classes are of very uneven sizes: 'a' has 2,002 images, 'c' 1.",
    )


# Tiles


def tiles_of_four_pictures() -> tuple[list[Array], list[str]]:
    """Half-overlapping tiles of pictures in which no pixel has the value of another."""
    pixels = np.random.default_rng(3).permutation(1 << 14).astype(np.uint16)
    size = Size("tile", (16, 16), (8, 8))
    tiles = [fitted(picture, size) for picture in pixels.reshape(4, 64, 64)]
    return tiles, [f"picture {number}" for number, some in enumerate(tiles) for _ in some]


def shared_pixels(division: split.Division) -> dict[str, int]:
    """Count the test images that share a pixel with train or val."""
    others = [division.digits[name].images.reshape(-1) for name in ("train", "val")]
    test = division.digits["test"].images
    shared = sum(bool(np.isin(one, np.concatenate(others)).any()) for one in test)
    return {"shared": shared, "test": len(test)}


def test_tiles_of_one_picture_share_no_pixel_with_another_split() -> None:
    tiles, names = tiles_of_four_pictures()
    groups, group_names = number_groups({"all": names})
    part = Part(np.concatenate(tiles), np.zeros(len(names), np.uint8), groups=groups["all"])
    source = Source("images", {"all": part}, ("a",), {}, "", "", group_names=group_names)
    with_groups = split.divide(source, val=None, seed=0, shares=(80, 10, 10))
    assert shared_pixels(with_groups) == {"shared": 0, "test": 49}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        first, second = (with_groups.digits[name].images for name in (one, other))
        assert not np.intersect1d(first, second).size
    alone = replace(source, parts={"all": replace(part, groups=None)})
    without = shared_pixels(split.divide(alone, val=None, seed=0))
    assert without["shared"] == without["test"] > 0


# Datasets


@pytest.fixture
def source() -> Source:
    rng = np.random.default_rng(1)
    names = {"train": ["p1", "p2", "p2", "p3\n"], "val": ["v"], "test": ["t", "t", "t2"]}
    groups, group_names = number_groups(names)
    parts = {
        part: Part(
            rng.integers(0, 256, (len(listed), 5, 5), np.uint8),
            np.zeros(len(listed), np.uint8),
            groups=groups[part],
        )
        for part, listed in names.items()
    }
    return Source("npz", parts, ("a",), {"groups": "0" * 64}, "", "", group_names=group_names)


@pytest.fixture
def build(source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    monkeypatch.setattr(sources, "load", lambda *_, **__: source)

    def built(name: str, **changes: Any) -> Path:
        builder.build(recipe.changed(TINY, **changes), tmp_path / name, directory=tmp_path / "in")
        return tmp_path / name

    return built


def problems(root: Path, **how: Any) -> list[tuple[str, str]]:
    return [(one.kind, one.found) for one in verify(root, **how).problems]


def forge(root: Path, groups: dict[str, list[int]]) -> None:
    """Write a dataset whose group columns are these, all digests computed again."""
    present = manifest.load(root)
    listed = planning.splits(present.plan)
    dataset = Dataset(root)
    stored = {
        (one.name, column.name): dataset.rows(one.task, one.name, column.name, 0, one.count).copy()
        for one in listed
        for column in one.columns
    }
    for name, numbers in groups.items():
        stored[name, "group"][:] = numbers

    def deriver(one: Split) -> Deriver:
        def derive(indices: npt.NDArray[np.int64], out: Mapping[str, Array]) -> None:
            for column, rows in out.items():
                rows[:] = stored[one.name, column][indices]

        return derive

    writer.write_dataset(root.parent / "forged", present.plan, listed, deriver, workers=1)


def test_a_dataset_states_its_groups(build: Callable[..., Path]) -> None:
    root = build("plain")
    assert verify(root).problems == ()
    stated = manifest.load(root)
    assert stated.version == 2
    assert stated.source.groups == 6
    assert not (root / GROUPS).exists()
    assert {file.path for file in stated.files} & {RECIPE, GROUPS} == {RECIPE}
    verdict = verify(root, quick=True)
    assert "whether a group of images is in two splits" in verdict.skipped
    assert "whether a group of images is in two splits" not in verify(root).skipped


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ({"test": [4, 4, 3]}, [("group in two splits", "group 3, which is in val too")]),
        ({"train": [0, 6, 1, 2]}, [("unknown group", "group 6")]),
        ({"train": [5, 1, 1, 2]}, [("group in two splits", "group 5, which is in train too")]),
        ({"train": [1, 0, 0, 2]}, []),  # only the source knows better
    ],
)
def test_inconsistent_groups_are_found(
    build: Callable[..., Path],
    groups: dict[str, list[int]],
    found: list[tuple[str, str]],
    tmp_path: Path,
) -> None:
    forge(build("plain"), groups)
    assert problems(tmp_path / "forged") == found
    with_source = [kind for kind, _ in problems(tmp_path / "forged", source_dir=tmp_path)]
    assert set(with_source) == {"wrong group"}


def test_the_names_of_groups_are_written_if_asked_for(
    build: Callable[..., Path], source: Source
) -> None:
    root = build("named", group_names=True)
    assert (root / GROUPS).read_bytes() == b"p1\np2\np3\\n\nv\nt\nt2\n"
    assert (root / GROUPS).read_bytes() == group_names_text(source.group_names)
    assert GROUPS in {file.path for file in manifest.load(root).files}
    assert verify(root).problems == ()
    assert verify(root, source_dir=root.parent).problems == ()
    assert build("named", group_names=True) == root  # complete
    assert manifest.load(root).digest == manifest.load(build("plain")).digest


def test_names_that_are_damaged_are_found_and_built_again(build: Callable[..., Path]) -> None:
    root = build("named", group_names=True)
    whole = (root / GROUPS).read_bytes()
    (root / GROUPS).write_bytes(whole.replace(b"p2", b"q2"))
    assert [kind for kind, _ in problems(root, quick=True)] == ["damaged"]
    (root / GROUPS).unlink()
    assert [kind for kind, _ in problems(root, quick=True)] == ["missing"]
    assert [kind for kind, _ in problems(root, source_dir=root.parent)] == ["missing"]
    assert build("named", group_names=True) == root
    assert (root / GROUPS).read_bytes() == whole
    assert verify(root).problems == ()


def reseal(root: Path, content: bytes) -> None:
    """Write other names of groups, and a manifest that lists them."""
    stated = manifest.load(root)
    (root / GROUPS).write_bytes(content)
    facts = FileFacts(GROUPS, len(content), bytes_digest(content))
    files = tuple(facts if file.path == GROUPS else file for file in stated.files)
    (root / MANIFEST).write_bytes(manifest.to_bytes(replace(stated, files=files)))


def test_forged_names_are_found(build: Callable[..., Path], tmp_path: Path) -> None:
    root = build("named", group_names=True)
    whole = (root / GROUPS).read_bytes()
    reseal(root, whole.replace(b"p2", b"q2"))
    assert problems(root) == []  # only the source knows better
    assert problems(root, source_dir=tmp_path) == [("another group name", "others")]
    reseal(root, whole + b"more\n")
    assert problems(root, quick=True) == [("contradiction", "7 lines")]
    stated = manifest.load(root)
    listed = tuple(file for file in stated.files if file.path != GROUPS)
    (root / MANIFEST).write_bytes(manifest.to_bytes(replace(stated, files=listed)))
    assert {kind for kind, _ in problems(root, quick=True)} == {"not listed", "unexpected"}


def test_a_stray_groups_txt_is_found(build: Callable[..., Path]) -> None:
    root = build("plain")
    (root / GROUPS).write_bytes(b"a\n")
    assert [kind for kind, _ in problems(root, quick=True)] == ["unexpected"]


def test_parts_are_finished_without_the_source(
    build: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build("whole", group_names=True)
    wanted = recipe.changed(TINY, group_names=True)
    for part in ((0, 1), (1, 3)):
        builder.build(wanted, tmp_path / "parts", directory=tmp_path, part=part)
    monkeypatch.undo()
    names = (tmp_path / "parts" / GROUPS).read_bytes()
    (tmp_path / "parts" / GROUPS).unlink()
    with pytest.raises(StorageError, match="expected 6 names, found 0"):
        builder.finish(tmp_path / "parts")
    (tmp_path / "parts" / GROUPS).write_bytes(names)
    builder.finish(tmp_path / "parts")
    for path in (MANIFEST, GROUPS):
        assert (tmp_path / "parts" / path).read_bytes() == (whole / path).read_bytes()


def test_a_conversion_keeps_the_names(build: Callable[..., Path], tmp_path: Path) -> None:
    root = build("named", group_names=True)
    builder.convert(root, tmp_path / "other", format_name="hdf5")
    assert (tmp_path / "other" / GROUPS).read_bytes() == (root / GROUPS).read_bytes()
    assert verify(tmp_path / "other").problems == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"groups": "p."}, "gives no groups of images"),
        ({"group_names": True}, "leave group_names out"),
        ({"size": {"fit": "exact", "sides": (6, 6)}}, r"expected images of 6x6, found 5x5"),
        ({"offset": 7}, "no offset is added; leave the offset out"),
    ],
)
def test_what_a_source_does_not_heed_is_refused(
    changes: dict[str, Any],
    words: str,
    source: Source,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    parts = {name: replace(part, groups=None) for name, part in source.parts.items()}
    bare = replace(source, name="strokes", parts=parts, group_names=())
    monkeypatch.setattr(sources, "load", lambda *_, **__: bare)
    with pytest.raises(RecipeError, match=words):
        builder.build(recipe.changed(TINY, **changes), tmp_path / "out", directory=tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_other_names_is_another(build: Callable[..., Path]) -> None:
    build("plain")
    with pytest.raises(FormatError, match="group_names"):
        build("plain", group_names=True)


def test_a_recipe_states_group_names_only_if_they_are_asked_for() -> None:
    assert "group_names" not in recipe.to_toml(Recipe("images"))
    asked = recipe.changed(TINY, group_names=True)
    assert "group_names = true\n" in recipe.to_toml(asked)
    assert recipe.parse(recipe.to_toml(asked), origin="tests") == asked
    with pytest.raises(RecipeError, match="group_names must be true or false"):
        recipe.parse('source = "mnist"\ngroup_names = 1\n', origin="tests")
