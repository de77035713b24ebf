"""Test that a manifest has one encoding, and that contradictory or hostile ones are refused."""

from __future__ import annotations

import hashlib
import json
import re
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import manifest as manifests
from datagen.dataset import table_from_bytes
from datagen.errors import DamagedError, DatagenError, FormatError, StorageError
from datagen.hashing import canonical_json
from datagen.layout import MAX_MANIFEST_BYTES, SPLITS
from datagen.manifest import DigitFacts, Manifest, SourceFacts, from_bytes, seal, to_bytes
from datagen.recipe import Mosaics, Recipe, Storage
from datagen.split import NO_OFFSET, SHARD_FACTS, Column, FileFacts, Split

PATH = Path("some/manifest.json")

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
PLACES = st.from_regex(
    r"[a-z0-9_][a-z0-9_.-]{0,9}(/[a-z0-9_][a-z0-9_.-]{0,9}){0,3}", fullmatch=True
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NATURALS = st.integers(0, (1 << 63) - 1)


def hexes(size: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size, max_size=size).map(bytes.hex)


def files(size: st.SearchStrategy[int] = NATURALS) -> st.SearchStrategy[FileFacts]:
    return st.builds(FileFacts, PLACES, size, hexes(16))


@st.composite
def columns(draw: st.DrawFn) -> Column:
    shape = tuple(draw(st.lists(st.integers(1, (1 << 20) - 1), max_size=3)))
    axes = tuple(draw(NAMES) for _ in shape)
    place = draw(PLACES) + draw(
        st.sampled_from(["/{shard}", "/{shard}/0/0", "/{shard:05d}.h5", "{shard}"])
    )
    return Column(
        draw(NAMES),
        draw(st.sampled_from(["|u1", "<u4", "<i8"])),
        shape,
        axes,
        place,
        draw(hexes(32)),
    )


@st.composite
def splits(draw: st.DrawFn, task: str, name: str, shard_size: int) -> Split:
    count = draw(st.integers(1, 1 << 40))
    listed = tuple(
        draw(st.lists(columns(), min_size=1, max_size=3, unique_by=lambda column: column.name))
    )
    size = 72 * len(listed) * -(-count // shard_size)
    return Split(task, name, count, listed, shard_size, "none", draw(files(st.just(size))))


@st.composite
def sealed(draw: st.DrawFn) -> Manifest:
    shard_size = draw(st.sampled_from([256, 1024, 1 << 24]))
    source = SourceFacts(
        name=draw(TEXTS),
        classes=tuple(draw(st.lists(TEXTS, max_size=3))),
        tile=draw(st.tuples(st.integers(1, 512), st.integers(1, 512))),
        digests=draw(st.dictionaries(TEXTS, hexes(32), max_size=3)),
        licence=draw(TEXTS),
        attribution=draw(TEXTS),
        digits={
            split: draw(st.builds(DigitFacts, NATURALS, NATURALS, NATURALS)) for split in SPLITS
        },
        conflicts=draw(NATURALS),
        conflicts_listed=tuple(draw(st.lists(TEXTS, max_size=3))),
    )
    tasks = draw(st.lists(NAMES, max_size=3, unique=True))
    names = st.lists(st.sampled_from(SPLITS), min_size=1, max_size=3, unique=True)
    keys = [(task, name) for task in tasks for name in draw(names)]
    recipe = Recipe(
        "mnist", draw(st.none() | st.integers(1, 99)), storage=Storage(shard_size=shard_size)
    )
    listed = {key: draw(splits(*key, shard_size)) for key in keys}
    return seal(Manifest("", recipe, source, listed, tuple(draw(st.lists(files(), max_size=3)))))


def small() -> Manifest:
    """A manifest of one split with two columns and two shards."""
    image = Column(
        "image", "|u1", (2, 3), ("y", "x"), "foreground/train/image/c/{shard}/0/0", "ab" * 32
    )
    label = Column("label", "|u1", (), (), "foreground/train/label/c/{shard}", "cd" * 32)
    table = FileFacts("foreground/train.shards", 2 * 2 * 72, "ef" * 16)
    source = SourceFacts(
        name="npz",
        classes=("zero", "one"),
        tile=(2, 3),
        digests={"images": "12" * 32},
        licence="not stated",
        attribution="not stated",
        digits={split: DigitFacts(300, 0, 0) for split in SPLITS},
        conflicts=0,
        conflicts_listed=(),
    )
    recipe = Recipe("npz", val=5, mosaics=Mosaics((1, 2), 4, 4, 4), storage=Storage(shard_size=256))
    split = Split("foreground", "train", 300, (image, label), 256, "none", table)
    listed = {("foreground", "train"): split}
    return seal(Manifest("", recipe, source, listed, (FileFacts("recipe.toml", 7, "00" * 16),)))


def with_tasks(*tasks: str, names: Sequence[str] = ("train",)) -> Manifest:
    """Give the small manifest's only split each of these tasks and names."""
    split = small().splits["foreground", "train"]
    listed = {
        (task, name): replace(split, task=task, name=name) for task in tasks for name in names
    }
    return seal(replace(small(), splits=listed))


def plain() -> Any:
    return json.loads(to_bytes(small()))


def resealed(value: Any) -> bytes:
    """Encode as canonical JSON with a valid digest of the manifest, as a careful forger would."""
    rest = {key: part for key, part in value.items() if key != "sha256"}
    return canonical_json(rest | {"sha256": hashlib.sha256(canonical_json(rest)).hexdigest()})


def forged(value: Any) -> bytes:
    """Do as `resealed`, and compute the dataset digest again too."""
    listed = [
        [
            task,
            split,
            column["name"],
            column["dtype"],
            [facts["count"], *column["shape"]],
            column["root"],
        ]
        for task, facts_of in value["tasks"].items()
        for split, facts in facts_of.items()
        for column in facts["columns"]
    ]
    return resealed(value | {"digest": hashlib.sha256(canonical_json(sorted(listed))).hexdigest()})


def refused(data: bytes, kind: type[DatagenError] = DamagedError) -> str:
    with pytest.raises(DatagenError) as caught:
        from_bytes(data, path=PATH)
    assert type(caught.value) is kind, caught.value
    assert str(caught.value).startswith(str(PATH))
    assert len(str(caught.value)) < 20_000
    return str(caught.value)


@pytest.mark.parametrize("examples", [8, pytest.param(100, marks=pytest.mark.long)])
def test_a_manifest_comes_back_from_its_bytes(examples: int) -> None:
    @settings(max_examples=examples)
    @given(sealed())
    def check(manifest: Manifest) -> None:
        data = to_bytes(manifest)
        back = from_bytes(data, path=PATH)
        assert back == manifest
        assert to_bytes(back) == data

    check()


def test_the_bytes_follow_the_format_page() -> None:
    data = to_bytes(small())
    value = json.loads(data)
    assert data == (json.dumps(value, sort_keys=True, indent=2) + "\n").encode("ascii")
    assert value["format"] == {"name": "datagen", "version": 1}
    stated = value.pop("sha256")
    spelled = json.dumps(value, sort_keys=True, indent=2) + "\n"
    assert stated == hashlib.sha256(spelled.encode()).hexdigest()
    assert set(value) == {"digest", "files", "format", "recipe", "source", "tasks"}
    assert set(value["tasks"]["foreground"]["train"]["columns"][0]) == {
        *("name", "dtype", "shape", "axes", "path", "root")
    }
    assert forged(value) == data


def test_tasks_and_splits_come_back_in_the_order_of_the_work() -> None:
    every = with_tasks("foreground", "circles", "mosaics", "boxes", names=SPLITS)
    back = from_bytes(to_bytes(every), path=PATH)
    assert list(back.tasks) == ["foreground", "circles", "mosaics", "boxes"]
    assert list(back.tasks["circles"]) == list(back.source.digits) == ["train", "val", "test"]


def test_the_bytes_of_a_split_count_all_its_samples() -> None:
    assert small().tasks["foreground"]["train"].bytes == 300 * (6 + 1)


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "keys in another order": lambda data: (
        json.dumps(dict(reversed(json.loads(data).items())), indent=2) + "\n"
    ).encode(),
    "no indentation": lambda data: (json.dumps(json.loads(data), sort_keys=True) + "\n").encode(),
    "a space at the end": lambda data: data + b" ",
    "a second line feed": lambda data: data + b"\n",
    "no line feed": lambda data: data[:-1],
    "line feeds of another system": lambda data: data.replace(b"\n", b"\r\n"),
    "tabs": lambda data: data.replace(b"  ", b"\t"),
    "a key twice": lambda data: data.replace(
        b'"count": 300,', b'"count": 300,\n      "count": 300,', 1
    ),
    "a key twice, the first time wrong": lambda data: data.replace(
        b"{\n", b'{\n  "digest": "",\n', 1
    ),
    "a letter escaped": lambda data: data.replace(b'"zero"', b'"\\u007aero"'),
    "a slash escaped": lambda data: data.replace(
        b"foreground/train.shards", b"foreground\\/train.shards"
    ),
    "a number with an exponent": lambda data: data.replace(b'"bytes": 7', b'"bytes": 7e0'),
    "a number with a fraction": lambda data: data.replace(b'"bytes": 7', b'"bytes": 7.0'),
    "a negative zero": lambda data: data.replace(b'"conflicts": 0', b'"conflicts": -0'),
    "digests in capitals": lambda data: data.replace(b"ab" * 32, b"AB" * 32),
    "another key": lambda data: data.replace(b"{\n", b'{\n  "comment": "",\n', 1),
    "another key in a record": lambda data: data.replace(
        b'"bytes": 7', b'"apples": 1,\n      "bytes": 7'
    ),
    "another sha256": lambda data: re.sub(rb'("sha256": ")....', rb"\g<1>0000", data),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_other_encoding_of_the_same_facts_is_refused(spelling: str) -> None:
    data = SPELLINGS[spelling](to_bytes(small()))
    assert data != to_bytes(small())
    refused(data)


NO_MANIFEST: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(100),
    "a byte order mark": b"\xef\xbb\xbf" + to_bytes(small()),
    "UTF-16": to_bytes(small()).decode().encode("utf-16"),
    "UTF-8": to_bytes(small()).replace(b"zero", "z\u00e9ro".encode()),
    "a second value": to_bytes(small()) * 2,
    "the first half": to_bytes(small())[: len(to_bytes(small())) // 2],
    "an array": b"[]\n",
    "a string": b'"datagen"\n',
    "null": b"null\n",
    "an empty object": b"{}\n",
    "deep arrays": b"[" * 500_000,
    "deep objects": b'{"a":' * 150_000,
    "a number of thousands of digits": b'{"count": ' + b"9" * 5000 + b"}",
    "HTML": b"<!DOCTYPE html><title>404</title>",
}


@pytest.mark.parametrize("name", NO_MANIFEST)
def test_a_file_that_is_not_a_manifest_is_reported_as_such(name: str) -> None:
    assert "not a manifest" in refused(NO_MANIFEST[name], FormatError)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1.5", "1e3", "true", "null", "[]", "{}", '"7"', "-1"]
)
@pytest.mark.parametrize("place", ['"bytes": 7', '"count": 300', '"conflicts": 0'])
def test_a_count_is_a_natural_number(place: str, value: str) -> None:
    key = place.split(":", maxsplit=1)[0]
    data = to_bytes(small()).replace(place.encode(), f"{key}: {value}".encode())
    assert data != to_bytes(small())
    assert "must be" in refused(data)


@pytest.mark.parametrize("digits", [20, 1000, 4000, 4300])
def test_a_number_with_many_digits_is_refused(digits: int) -> None:
    for place in (
        b'"bytes": 7',
        b'"count": 300',
        b'"dropped_across": 0',
        b'"seed": 0',
        b'"val": 5',
        b'"version": 1',
    ):
        key = place.split(b":")[0]
        data = to_bytes(small()).replace(place, key + b": " + b"9" * digits)
        assert data != to_bytes(small())
        refused(data, FormatError if b"version" in key else DamagedError)


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_nesting_at_the_limit_of_json_is_refused(depth: int) -> None:
    nest = b"[" * depth + b"]" * depth
    for place in (
        b'"name": "npz"',
        b'"seed": 0',
        b'"train": 4',
        b'"name": "datagen"',
        b'"version": 1',
        b'"bytes": 7',
    ):
        data = to_bytes(small()).replace(place, place.split(b":")[0] + b": " + nest)
        with pytest.raises((DamagedError, FormatError)):
            from_bytes(data, path=PATH)


@pytest.mark.parametrize("version", [0, 3, 4, -1, 1.0, True, None, "1", [1], {"a": 1}, 10**30])
def test_an_unknown_version_is_a_format_error_before_any_other_problem(
    version: Any,
) -> None:
    value = {"format": {"name": "datagen", "version": version}, "news": "of the future"}
    message = refused(canonical_json(value), FormatError)
    assert "version" in message
    assert "install the version of datagen that wrote it" in message
    assert FormatError("x").exit_code == 4


@pytest.mark.parametrize(
    "name", ["Datagen", "croissant", "", None, 1, [], ["x" * 100_000], {"name": {}}]
)
def test_another_format_is_reported_as_such(name: Any) -> None:
    refused(canonical_json({"format": {"name": name, "version": 1}}), FormatError)


@pytest.mark.parametrize("stated", [None, 1, "datagen", [], ["name", "version"]])
def test_a_format_entry_that_is_not_an_object_is_reported(stated: Any) -> None:
    refused(canonical_json({"format": stated}), FormatError)


EDITS: dict[str, Callable[[Any], object]] = {
    "count": lambda value: value["tasks"]["foreground"]["train"].update(count=299),
    "shape": lambda value: value["tasks"]["foreground"]["train"]["columns"][0].update(shape=[3, 2]),
    "dtype": lambda value: value["tasks"]["foreground"]["train"]["columns"][1].update(dtype="<u4"),
    "root": lambda value: value["tasks"]["foreground"]["train"]["columns"][1].update(
        root="00" * 32
    ),
    "name": lambda value: value["tasks"]["foreground"]["train"]["columns"][1].update(name="mask"),
    "task": lambda value: value["tasks"].update(circles=value["tasks"].pop("foreground")),
    "column": lambda value: value["tasks"]["foreground"]["train"]["columns"].pop(),
    "source": lambda value: value["recipe"].update(source="npz:/anywhere"),
    "digest": lambda value: value.update(digest="00" * 32),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_fact_is_found_even_if_the_manifest_is_sealed_again(name: str) -> None:
    value = plain()
    EDITS[name](value)
    assert "its sha256 is not that of the rest" in refused(canonical_json(value))
    assert "contradicts itself" in refused(resealed(value))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("groups", "^(?:a|a)*$", "groups must be a regular expression .* few ways to match"),
        (
            "foreground",
            {"values": "band " + "9" * 5000},
            'foreground.values must be one of .*"band',
        ),
    ],
)
def test_the_recipe_of_a_manifest_of_others_is_checked(key: str, value: Any, words: str) -> None:
    edited = json.loads(to_bytes(small()))
    edited["recipe"][key] = value
    assert re.search(words, refused(forged(edited)))


def test_the_source_of_a_recipe_is_a_name() -> None:
    value = plain()
    value["recipe"]["source"] = "npz:/anywhere"
    assert refused(forged(value)).endswith("recipe.source must be a name, without a path")


def test_a_split_has_columns() -> None:
    value = plain()
    value["tasks"]["foreground"]["train"]["columns"] = []
    value["tasks"]["foreground"]["train"]["table"]["bytes"] = 0
    data = forged(value)
    assert refused(data).endswith(" itself: tasks.foreground.train has no columns")


def set_path(path: str) -> Callable[[Any], object]:
    return lambda value: value["files"][0].update(path=path)


def set_table(path: str) -> Callable[[Any], object]:
    return lambda value: value["tasks"]["foreground"]["train"]["table"].update(path=path)


def set_rule(path: str) -> Callable[[Any], object]:
    return lambda value: value["tasks"]["foreground"]["train"]["columns"][0].update(path=path)


PLACES_OUTSIDE = [
    *(
        "..",
        "../x",
        "a/../x",
        "a/..",
        "./x",
        "a/./x",
        "/etc/passwd",
        "//x",
        "a//x",
        "x/",
        "/",
        "",
        ".",
        "~/x",
        "-x",
    ),
    *(
        "a\\..\\x",
        "C:/x",
        "C:x",
        "a:b",
        "x\n",
        "x\0",
        "a\n/b",
        "caf\u00e9",
        "A",
        "a b",
        "a?",
        "*",
        "$HOME",
        "%2e%2e/x",
    ),
    *(
        ".hidden",
        "a/.hidden",
        ".manifest.json",
        ".build/x",
        ".datagen-0.tmp",
        "x" * 256,
        "x/" * 200 + "x",
    ),
]
RULES_OUTSIDE = [
    *(
        f"{place}{{shard}}"
        for place in PLACES_OUTSIDE
        if place not in ("", "x" * 256, "x/", "-x", ".")
    ),
    *(".{shard}", "-{shard}", "x" * 256 + "{shard}", "/{shard}"),
    *(
        "a",
        "a/{}",
        "a/{0}",
        "a/{shard}/{shard}",
        "a/{shard}{shard:05d}",
        "a/{shard",
        "a/shard}",
        "a/{{shard}}",
    ),
    *(
        "a/{shard!r}",
        "a/{shard.__class__}",
        "a/{shard.numerator}",
        "a/{shard[0]}",
        "a/{shard:>5}",
        "a/{shard:x}",
    ),
    *(
        "a/{shard:999999999d}",
        "a/{shard:05}",
        "a/{shard:5d}",
        "a/{shard:06d}",
        "a/{shard:{shard}}",
        "a/{Shard}",
    ),
    *(
        "a/{shard:05d}/..",
        "../{shard:05d}.h5",
        "a/{shard}/../../x",
        "%s/{shard}",
        "a/{shard }",
        "a/{ shard}",
        "a/{shard}}",
    ),
]


@pytest.mark.parametrize("path", PLACES_OUTSIDE)
def test_a_path_that_leaves_the_dataset_is_refused_even_with_valid_digests(path: str) -> None:
    for edit in (set_path(path), set_table(path)):
        value = plain()
        edit(value)
        assert "must be a path within the dataset" in refused(forged(value))


@pytest.mark.parametrize("path", ["a/{shard}", "{shard:05d}", "{}"])
def test_only_the_path_of_a_shard_contains_a_placeholder(path: str) -> None:
    for edit in (set_path(path), set_table(path)):
        value = plain()
        edit(value)
        assert "must be a path within the dataset" in refused(forged(value))


@pytest.mark.parametrize("rule", RULES_OUTSIDE)
def test_a_path_rule_only_inserts_the_shard_number(rule: str) -> None:
    value = plain()
    set_rule(rule)(value)
    assert "must be a rule for paths within the dataset" in refused(forged(value))


@given(st.text("{}shard:05d!.[]_/x0\\", max_size=20) | st.text(max_size=20))
def test_every_accepted_rule_is_a_path_within_the_dataset(rule: str) -> None:
    value = plain()
    set_rule(rule)(value)
    try:
        manifest = from_bytes(forged(value), path=PATH)
    except DatagenError:
        return
    taken = manifest.tasks["foreground"]["train"].columns[0].path
    for shard in (0, 7, 1 << 32):
        path = taken.format(shard=shard)
        assert path in (
            rule.replace("{shard}", str(shard)),
            rule.replace("{shard:05d}", f"{shard:05d}"),
        )
        assert not Path(path).is_absolute()
        assert ".." not in Path(path).parts


BAD_NAMES = [
    "",
    "A",
    "a b",
    "a/b",
    "..",
    ".",
    "a.b",
    "a-b",
    "1a",
    "_a",
    "\u00e9",
    "a\n",
    "a\0",
    "{shard}",
    "x" * 65,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_in_paths_have_only_letters_digits_and_underscores(name: str) -> None:
    edits: list[Callable[[Any], object]] = [
        lambda value: value["tasks"].update({name: value["tasks"].pop("foreground")}),
        lambda value: value["tasks"]["foreground"]["train"]["columns"][0].update(name=name),
        lambda value: value["tasks"]["foreground"]["train"]["columns"][0].update(axes=[name, "x"]),
    ]
    for edit in edits:
        value = plain()
        edit(value)
        assert "must be a name" in refused(forged(value))
    value = plain()
    value["tasks"]["foreground"][name] = value["tasks"]["foreground"].pop("train")
    assert "no such split" in refused(forged(value))


CONTRADICTIONS: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "no samples": (lambda value, split: split.update(count=0), "count must be"),
    "too many samples": (lambda value, split: split.update(count=1 << 41), "count must be"),
    "a table too small": (
        lambda value, split: split["table"].update(bytes=287),
        "must have 288 bytes",
    ),
    "a table too large": (
        lambda value, split: split["table"].update(bytes=1 << 40),
        "must have 288 bytes",
    ),
    "a shard more": (lambda value, split: split.update(count=513), "must have 432 bytes"),
    "a digest of another size": (
        lambda value, split: split["table"].update(digest="ef" * 32),
        "must be a digest",
    ),
    "a digest in capitals": (
        lambda value, split: split["table"].update(digest="EF" * 16),
        "must be a digest",
    ),
    "a digest of a line more": (
        lambda value, split: split["table"].update(digest="e" * 31 + "\n"),
        "must be a digest",
    ),
    "a root of another size": (
        lambda value, split: split["columns"][0].update(root="ab" * 16),
        "must be a digest",
    ),
    "a root in capitals": (
        lambda value, split: split["columns"][0].update(root="AB" * 32),
        "must be a digest",
    ),
    "a root in other figures": (
        lambda value, split: split["columns"][0].update(root="\u0661" * 64),
        "must be a digest",
    ),
    "a type of objects": (
        lambda value, split: split["columns"][0].update(dtype="O"),
        "dtype must be one of |u1, <u2, <u4, <i8, not 'O'",
    ),
    "a type of floats": (
        lambda value, split: split["columns"][0].update(dtype="<f8"),
        "dtype must be one of |u1, <u2, <u4, <i8, not '<f8'",
    ),
    "a type of endless bytes": (
        lambda value, split: split["columns"][0].update(dtype="V999999999"),
        "dtype must be one of",
    ),
    "another byte order": (
        lambda value, split: split["columns"][0].update(dtype=">i8"),
        "dtype must be one of",
    ),
    "a side of none": (
        lambda value, split: split["columns"][0].update(shape=[0, 3]),
        "must be the shape",
    ),
    "a side too long": (
        lambda value, split: split["columns"][0].update(shape=[1 << 20, 3]),
        "must be the shape",
    ),
    "four axes": (
        lambda value, split: split["columns"][0].update(shape=[1] * 4, axes=["y"] * 4),
        "must be the shape",
    ),
    "an axis too many": (
        lambda value, split: split["columns"][0].update(axes=["y", "x", "z"]),
        "axes must name",
    ),
    "an axis too few": (
        lambda value, split: split["columns"][0].update(axes=["y"]),
        "axes must name",
    ),
    "a column twice": (
        lambda value, split: split["columns"][0].update(name="label"),
        "two columns have the same name",
    ),
    "a tile of one side": (
        lambda value, split: value["source"].update(tile=[2]),
        "source.tile must be",
    ),
    "a tile of three": (
        lambda value, split: value["source"].update(tile=[2, 3, 3]),
        "source.tile must be",
    ),
    "a tile too high": (
        lambda value, split: value["source"].update(tile=[1 << 20, 3]),
        "source.tile must be",
    ),
    "a tile of none": (
        lambda value, split: value["source"].update(tile=[0, 3]),
        "source.tile must be",
    ),
    "a split missing": (
        lambda value, split: value["source"]["digits"].pop("val"),
        "source.digits must have",
    ),
    "a split too many": (
        lambda value, split: value["source"]["digits"].update(
            extra=value["source"]["digits"]["val"]
        ),
        "source.digits must have",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_reported_even_with_valid_digests(name: str) -> None:
    edit, expected = CONTRADICTIONS[name]
    value = plain()
    edit(value, value["tasks"]["foreground"]["train"])
    message = refused(forged(value))
    assert re.search("not a manifest of this version: |the manifest contradicts itself: ", message)
    assert expected in message


def test_a_sample_can_have_three_axes_of_up_to_2_to_the_20() -> None:
    value = plain()
    sides = [1, (1 << 20) - 1, 7]
    value["tasks"]["foreground"]["train"]["columns"][0].update(
        shape=sides, axes=["channel", "y", "x"]
    )
    assert from_bytes(forged(value), path=PATH).tasks["foreground"]["train"].columns[
        0
    ].shape == tuple(sides)


@pytest.mark.parametrize("count", [1, 1 << 40])
def test_a_split_can_have_one_sample_or_the_largest_count_of_a_recipe(count: int) -> None:
    value = plain()
    train = value["tasks"]["foreground"]["train"]
    train.update(count=count)
    train["table"].update(bytes=2 * -(-count // 256) * 72)
    assert from_bytes(forged(value), path=PATH).tasks["foreground"]["train"].count == count


def test_the_forger_of_these_tests_is_careful() -> None:
    value = plain()
    value["tasks"]["foreground"]["train"].update(count=301)
    assert from_bytes(forged(value), path=PATH).tasks["foreground"]["train"].count == 301


def test_all_contradictions_are_counted_and_the_first_twenty_named() -> None:
    value = plain()
    for edit, _ in list(CONTRADICTIONS.values())[:2]:
        edit(value, value["tasks"]["foreground"]["train"])
    set_path("../x")(value)
    message = refused(forged(value))
    assert "count must be" in message
    assert "'../x'" in message
    value["files"] = [{"path": "..", "bytes": 1, "digest": ""}] * 100
    assert re.search(r"and \d+ more", refused(forged(value)))


def test_every_wrong_value_has_a_full_message() -> None:
    value = plain()
    train = value["tasks"]["foreground"]["train"]
    image, label = train["columns"]
    image.update(root="ab", path="../{shard}", dtype="O", shape=[0, 3], axes=["Y"])
    label.update(name="image", path="x")
    train["columns"].append({**label, "name": "L"})
    train.update(count=0)
    train["table"].update(path="..", digest="e")
    value["tasks"]["Rings"] = plain()["tasks"]["foreground"]
    value["source"]["tile"] = [2]
    value["files"][0].update(path="/x", digest="")
    value["digest"] = "12"
    head, listed = refused(resealed(value)).split(" version: ")
    assert head == "some/manifest.json: not a manifest of this"
    assert listed.split("; ") == [
        "digest must be a digest of 32 bytes in hex, not '12'",
        "source.tile must be a height and a width, not [2]",
        "a key of tasks must be a name of letters a to z, digits and underscores, not 'Rings'",
        "tasks.foreground.train.count must be an integer from 1 to 1,099,511,627,776, not 0",
        *(
            f"tasks.foreground.train.columns[{number}].{listed}"
            for number, listed in (
                (0, "dtype must be one of |u1, <u2, <u4, <i8, not 'O'"),
                (0, "shape must be the shape of a sample, not [0, 3]"),
                (0, "axes[0] must be a name of letters a to z, digits and underscores, not 'Y'"),
                (0, "path must be a rule for paths within the dataset, not '../{shard}'"),
                (0, "root must be a digest of 32 bytes in hex, not 'ab'"),
                (1, "path must be a rule for paths within the dataset, not 'x'"),
                (2, "name must be a name of letters a to z, digits and underscores, not 'L'"),
                (2, "path must be a rule for paths within the dataset, not 'x'"),
            )
        ),
        "tasks.foreground.train.table.path must be a path within the dataset, not '..'",
        "tasks.foreground.train.table.digest must be a digest of 16 bytes in hex, not 'e'",
        "files[0].path must be a path within the dataset, not '/x'",
        "files[0].digest must be a digest of 16 bytes in hex, not ''",
    ]


def test_every_contradiction_has_a_full_message() -> None:
    value = plain()
    train = value["tasks"]["foreground"]["train"]
    image, label = train["columns"]
    image.update(axes=["y"])
    label.update(name="image")
    train["table"].update(bytes=1)
    value["tasks"]["foreground"]["extra"] = plain()["tasks"]["foreground"]["train"]
    value["source"]["digits"].pop("val")
    head, listed = refused(resealed(value)).split(" itself: ")
    assert head == "some/manifest.json: the manifest contradicts"
    assert listed.split("; ") == [
        "source.digits must have train, val, test",
        "tasks.foreground.train: two columns have the same name",
        "tasks.foreground.train.image: axes must name each axis of a sample",
        "tasks.foreground.train.table must have 288 bytes",
        "tasks.foreground.extra: the source has no such split",
    ]


def test_a_wrong_digest_is_the_only_contradiction_of_an_edited_fact() -> None:
    assert refused(resealed(plain() | {"digest": "00" * 32})).endswith(
        " itself: digest is not that of the columns"
    )


def test_twenty_contradictions_are_listed_without_a_count_of_more() -> None:
    message = refused(
        resealed(plain() | {"files": [{"path": "..", "bytes": 1, "digest": "00" * 16}] * 20})
    )
    assert message.endswith("; files[19].path must be a path within the dataset, not '..'")
    assert message.count("; ") == 19


WRONG_TYPES: dict[str, tuple[Callable[[Any], object], str]] = {
    "no text": (
        lambda value: value["source"].update(name=7),
        "source.name must be Unicode text, not 7",
    ),
    "half a character": (
        lambda value: value["source"].update(name="\ud800"),
        r"source.name must be Unicode text, not '\ud800'",
    ),
    "half a character for a name": (
        lambda value: value["source"].update(digests={"\ud800": "00"}),
        r"a key of source.digests must be Unicode text, not '\ud800'",
    ),
    "no text in a list": (
        lambda value: value["source"].update(classes=["zero", None]),
        "source.classes[1] must be Unicode text, not None",
    ),
    "no text in an object": (
        lambda value: value["source"]["digests"].update(images=[]),
        "source.digests.images must be Unicode text, not []",
    ),
    "no number": (
        lambda value: value["files"][0].update(bytes="7"),
        "files[0].bytes must be an integer from 0 to 2^63 - 1, not '7'",
    ),
    "a negative number": (
        lambda value: value["tasks"]["foreground"]["train"].update(count=-1),
        "tasks.foreground.train.count must be an integer from 1 to 1,099,511,627,776, not -1",
    ),
    "a number too large": (
        lambda value: value["source"]["digits"]["val"].update(dropped_within=1 << 63),
        "source.digits.val.dropped_within must be an integer from 0 to 2^63 - 1, "
        "not 9223372036854775808",
    ),
    "no list": (lambda value: value.update(files={}), "files must be a list, not {}"),
    "no object": (lambda value: value.update(tasks=[]), "tasks must be an object, not []"),
    "a task of no splits": (
        lambda value: value["tasks"].update(circles={}),
        "tasks.circles must be an object of splits, not an empty one",
    ),
    "no record": (lambda value: value.update(source="npz"), "source must be an object, not 'npz'"),
    "no recipe": (lambda value: value.update(recipe=[]), "recipe must be an object, not []"),
    "nothing": (lambda value: value.pop("digest"), "digest is missing"),
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_value_of_a_wrong_type_is_reported_with_its_place_in_the_manifest(name: str) -> None:
    edit, expected = WRONG_TYPES[name]
    value = plain()
    edit(value)
    assert (
        refused(resealed(value))
        == f"some/manifest.json: not a manifest of this version: {expected}"
    )


def test_a_manifest_of_another_version_has_a_full_message() -> None:
    assert (
        refused(b"[]\n", FormatError)
        == "some/manifest.json: not a manifest (expected a JSON object, found list)"
    )
    for stated, found in (({"name": "croissant"}, "'croissant'"), ("croissant", "None")):
        assert refused(canonical_json({"format": stated}), FormatError) == (
            f"some/manifest.json: not a manifest of this format (expected datagen, found {found})"
        )
    assert refused(canonical_json({"format": {"name": "datagen", "version": 3}}), FormatError) == (
        "some/manifest.json: a version of the format that this program does not know "
        "(expected one of 1, 2, found 3); "
        "install the version of datagen that wrote it, or a later one"
    )
    assert refused(to_bytes(small()) + b" ") == (
        "some/manifest.json: the manifest is damaged: its bytes are not canonical, "
        "or its sha256 is not that of the rest; "
        "without it nothing is known of the shards: remove the folder and build it again"
    )


def test_a_manifest_that_cannot_be_loaded_has_a_full_message(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"

    def loading_error(kind: type[DatagenError]) -> str:
        with pytest.raises(kind) as caught:
            manifests.load(tmp_path)
        return str(caught.value)

    assert loading_error(FormatError) == (
        f"{tmp_path}: not a finished dataset: there is no manifest "
        "(expected a file manifest.json, found nothing); "
        "build it with 'datagen build'"
    )
    for tasks, found in (((), "none"), (("foreground", "circles"), "foreground, circles")):
        path.write_bytes(to_bytes(with_tasks(*tasks)))
        assert loading_error(DamagedError) == (
            f"{path}: not the tasks of its recipe "
            f"(expected foreground, circles, mosaics, found {found})"
        )
    path.write_bytes(b"[]\n")
    assert loading_error(FormatError).startswith(f"{path}: not a manifest")
    path.write_bytes(bytes(MAX_MANIFEST_BYTES + 1))
    assert (
        loading_error(DamagedError)
        == f"{path}: too large (expected at most 1,048,576 bytes, found 1,048,577)"
    )


def test_a_shard_table_of_the_wrong_size_has_a_full_message() -> None:
    with pytest.raises(DamagedError) as caught:
        table_from_bytes(bytes(7), columns=1, shards=2, path=PATH)
    assert (
        str(caught.value)
        == "some/manifest.json: not the size of the split's table (expected 144, found 7)"
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda table: table.update(seed=-1),
        lambda table: table.update(source=""),
        lambda table: table.update(source="x" * 500_000 + "\0"),
        lambda table: table.update(extra=1),
        lambda table: table.pop("source"),
        lambda table: table["storage"].update(shard_size=255),
        lambda table: table["storage"].update(format="parquet"),
        lambda table: table["mosaics"].update(grid=[0, 1]),
        lambda table: table.update({f"key{number}": 0 for number in range(30_000)}),
    ],
)
def test_an_invalid_recipe_is_damage_of_the_manifest(
    edit: Callable[[Any], object],
) -> None:
    value = plain()
    edit(value["recipe"])
    started = time.perf_counter()
    assert "the recipe in the manifest is not valid" in refused(forged(value))
    assert time.perf_counter() - started < 5


def test_problems_of_a_recipe_have_full_messages() -> None:
    value = plain()
    value["recipe"].update(seed=-1)
    assert refused(forged(value)) == (
        "some/manifest.json: the recipe in the manifest is not valid: "
        "manifest.json: not a valid recipe: "
        "seed must be an integer from 0 to 9,223,372,036,854,775,807, not -1"
    )


def test_defaults_left_out_of_the_recipe_are_not_canonical() -> None:
    value = plain()
    value["recipe"]["storage"].pop("compression")
    assert "not canonical" in refused(forged(value))


@pytest.mark.parametrize(
    "edit",
    [
        lambda source, text: source.update(name=text),
        lambda source, text: source.update(classes=[text]),
        lambda source, text: source.update(licence=text),
        lambda source, text: source.update(digests={text: "00"}),
    ],
)
def test_a_lone_surrogate_is_not_text(edit: Callable[[Any, str], object]) -> None:
    value = plain()
    edit(value["source"], "\ud800")
    assert "Unicode text" in refused(forged(value))


def nodes(value: Any) -> list[tuple[Any, Any]]:
    """Yield (container, key) of every node below `value`."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [node for key, child in items for node in [(value, key), *nodes(child)]]


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@settings(max_examples=150)
@given(st.data(), JUNK, st.booleans())
def test_any_value_anywhere_raises_only_errors_of_the_package(
    data: st.DataObject, junk: Any, drop: bool
) -> None:
    value = plain()
    container, key = data.draw(st.sampled_from(nodes(value)))
    if drop:
        del container[key]
    else:
        container[key] = junk
    for spelled in (canonical_json(value), resealed(value)):
        try:
            manifest = from_bytes(spelled, path=PATH)
        except DatagenError:
            continue
        assert to_bytes(manifest) == spelled


@settings(max_examples=100)
@given(st.data(), st.binary(max_size=4))
def test_no_damage_to_the_bytes_goes_unnoticed(data: st.DataObject, inserted: bytes) -> None:
    whole = to_bytes(small())
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 4)))
    damaged = whole[:start] + inserted + whole[stop:]
    if damaged != whole:
        with pytest.raises((DamagedError, FormatError)):
            from_bytes(damaged, path=PATH)


def with_all_tasks() -> Manifest:
    return with_tasks(*small().recipe.tasks)


def test_a_manifest_is_loaded_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(to_bytes(with_all_tasks()))
    assert manifests.load(tmp_path) == with_all_tasks()


def test_a_plan_named_manifest_json_is_not_a_dataset(tmp_path: Path) -> None:
    for manifest in (with_tasks(), small()):
        (tmp_path / "manifest.json").write_bytes(to_bytes(manifest))
        with pytest.raises(
            DamagedError,
            match=r"not the tasks of its recipe .*expected foreground, circles, mosaics",
        ):
            manifests.load(tmp_path)


def test_a_folder_without_a_manifest_is_not_a_dataset(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            FormatError, match=r"not a finished dataset.*found nothing.*datagen build"
        ) as caught:
            manifests.load(folder)
        assert caught.value.path == folder


def link(path: Path) -> None:
    target = path.with_name("elsewhere.json")
    target.write_bytes(to_bytes(small()))
    path.symlink_to(target)


@pytest.mark.parametrize(
    "make",
    [link, Path.mkdir, lambda path: path.symlink_to(path), lambda path: path.symlink_to("nowhere")],
)
def test_a_manifest_must_be_a_regular_file_and_links_are_not_followed(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "manifest.json")
    with pytest.raises(FormatError, match=r"its manifest is a link|found a folder"):
        manifests.load(tmp_path)


def test_a_manifest_of_more_than_a_mebibyte_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(to_bytes(small()))
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole: reading it would take a terabyte of memory
    with pytest.raises(
        DamagedError, match=r"too large.*at most 1,048,576 bytes, found 1,099,511,627,776"
    ):
        manifests.load(tmp_path)


def test_the_largest_manifest_is_read_whole(tmp_path: Path) -> None:
    data = b" " * MAX_MANIFEST_BYTES
    (tmp_path / "x").write_bytes(data)
    assert manifests.read_bounded(tmp_path / "x", MAX_MANIFEST_BYTES) == data
    with pytest.raises(DamagedError, match="too large"):
        manifests.read_bounded(tmp_path / "x", MAX_MANIFEST_BYTES - 1)


def test_an_unreadable_path_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="too long"):
        manifests.load(tmp_path / ("n" * 300))
    (tmp_path / "manifest.json").write_bytes(b"")

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(StorageError, match=r"manifest\.json: the storage says: permission denied"):
        manifests.load(tmp_path)


def test_a_shard_table_has_72_bytes_a_row_column_by_column() -> None:
    rows = [(1, 2, 3, [4] * 16, [5] * 32), (NO, 6, 7, [8] * 16, [9] * 32)]
    data = b"".join(
        b"".join(number.to_bytes(8, "little") for number in row[:3]) + bytes(row[3]) + bytes(row[4])
        for row in rows
    )
    for shape in ((1, 2), (2, 1)):
        table = table_from_bytes(data, columns=shape[0], shards=shape[1], path=PATH)
        assert table.shape == shape
        np.testing.assert_array_equal(
            table.reshape(-1), np.array([tuple(row) for row in rows], SHARD_FACTS)
        )
    assert SHARD_FACTS.itemsize == 72


NO = NO_OFFSET


@pytest.mark.parametrize("size", [0, 71, 73, 143, 145, 288])
def test_a_shard_table_of_another_size_is_damage(size: int) -> None:
    with pytest.raises(DamagedError, match=f"expected 144, found {size}"):
        table_from_bytes(bytes(size), columns=1, shards=2, path=PATH)


LONG = "\x1b[2J" + "x" * 50_000  # also clears a terminal that it is printed on


def columns_of_nothing(value: Any) -> None:
    nothing = {"axes": [], "dtype": "", "name": "", "path": "", "root": "", "shape": []}
    facts = value["tasks"].pop("foreground")
    facts["train"]["columns"] = [nothing] * 500
    value["tasks"][LONG] = facts


def a_shape_of_many_sides(value: Any) -> None:
    facts = value["tasks"].pop("foreground")
    facts["train"]["columns"][0]["shape"] = [1] * 5000
    value["tasks"][LONG] = facts


def a_column_of_many_axes(value: Any) -> None:
    value["tasks"]["foreground"]["train"]["columns"][0].update(name=LONG, axes=[""] * 5000)


def a_split_without_facts(value: Any) -> None:
    value["tasks"]["foreground"] = {LONG: {}}


@pytest.mark.parametrize(
    "edit",
    [columns_of_nothing, a_shape_of_many_sides, a_column_of_many_axes, a_split_without_facts],
)
def test_a_name_of_any_length_is_shortened_and_costs_little(edit: Callable[[Any], None]) -> None:
    value = plain()
    edit(value)
    data = resealed(value)
    assert len(data) < MAX_MANIFEST_BYTES
    tracemalloc.start()
    message = refused(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message.isprintable()
    assert peak < 40 * len(data)
