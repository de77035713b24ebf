"""Test that verify reports problems, and survives hostile datasets with little memory."""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from forging import SHARD, Tiny, build_tiny, copy_of, reseal, seal
from helpers import FORMATS, flip, tree
from killing import Warm
from older import make_older

from datagen import builder, planning
from datagen import recipe as recipes
from datagen.cli import cli
from datagen.cli.output import print_verdict_line
from datagen.dataset import Dataset
from datagen.engines.threads import Slot
from datagen.errors import DamagedError, InputError, RecipeError, SourceError, StorageError
from datagen.hashing import merkle_root
from datagen.layout import MANIFEST
from datagen.manifest import load
from datagen.split import SHARD_FACTS, Shard
from datagen.stores import zarr as zarr_store
from datagen.tasks import TASKS, ImageFacts
from datagen.verifier import Problem, Verdict, across, structure, verify
from datagen.verifier.content import ShardReader, check_shard
from datagen.verifier.problems import unreadable
from datagen.verifier.structure import list_entries

KINDS = [(name, compression) for name in FORMATS for compression in ("none", "zstd")]
MEMORY = 1 << 30  # bytes of address space that a verification of a hostile dataset must do with
BOMB = 1 << 32  # bytes that a bomb says it decodes to

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="limits the address space by way of /proc"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Tiny]:
    """The tiny dataset of each format and compression; not to be damaged."""
    return cache(
        lambda name, packed: build_tiny(
            tmp_path_factory.mktemp("built") / f"{name}{packed}", name, packed
        )
    )


@pytest.fixture
def tiny(built: Callable[[str, str], Tiny], tmp_path: Path) -> Tiny:
    """An uncompressed Zarr dataset to be damaged."""
    return copy_of(built("zarr", "none"), tmp_path)


def run(*arguments: object) -> Result:
    environment = {"DATAGEN_SOURCE_DIR": ""}
    return CliRunner().invoke(
        cli, ["verify", *map(str, arguments)], env=environment, catch_exceptions=False
    )


def limited(
    warm: Warm, root: Path, *options: str, memory: int = MEMORY, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `datagen verify --json` with so much address space beyond that of an idle interpreter."""
    code = (
        "import resource; from datagen.__main__ import main;"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize();"
        f"resource.setrlimit(resource.RLIMIT_AS, (used + {memory},) * 2); main()"
    )
    started = time.monotonic()
    done = warm.run("verify", root, "--json", "--workers", 1, *options, script=code)
    assert time.monotonic() - started < seconds
    return done


def kinds(problems: Any) -> set[tuple[str, str]]:
    return {
        (one.kind, one.path) if isinstance(one, Problem) else (one["kind"], one["path"])
        for one in problems
    }


# Reports.


@pytest.mark.parametrize(("name", "compression"), KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"quick": True}, {"sample": 30}], ids=["full", "quick", "sample"]
)
def test_a_new_dataset_is_whole(
    built: Callable[[str, str], Tiny], name: str, compression: str, options: dict[str, Any]
) -> None:
    verdict = verify(built(name, compression).root, **options)
    assert verdict.problems == ()
    assert verdict.samples == (
        0 if "quick" in options else options.get("sample", 2 * 60 + 1100 + 8 + 520)
    )


def test_a_missing_shard_is_one_problem_and_its_empty_folder_is_none(tiny: Tiny) -> None:
    file = tiny.file("mosaics/val/label:0")
    path = file.relative_to(tiny.root).as_posix()
    file.unlink()
    assert not any(file.parent.iterdir())
    assert kinds(verify(tiny.root, quick=True).problems) == {("missing", path)}
    (file.parent / "more").mkdir()
    assert kinds(verify(tiny.root, quick=True).problems) == {
        ("missing", path),
        ("unexpected", file.parent.relative_to(tiny.root).as_posix() + "/more"),
    }


def test_json_has_counts_rates_and_a_record_for_each_problem(tiny: Tiny) -> None:
    flip(tiny.file("mosaics/val/label:0"), 9)
    result = run(tiny.root, "--json")
    facts = json.loads(result.stdout)
    problems = facts.pop("problems")
    assert result.exit_code == 1
    assert set(facts) == {
        "passed",
        "digest",
        "level",
        "samples",
        "bytes",
        "bytes_per_second",
        "seconds",
        "stood_on",
        "not_looked_at",
    }
    assert facts["passed"] is False
    assert facts["bytes"] == sum(
        facts.bytes for splits in load(tiny.root).tasks.values() for facts in splits.values()
    )
    wrong = next(one for one in problems if one["kind"] == "wrong label")
    assert wrong == {
        "kind": "wrong label",
        "path": "mosaics/val/label/c/0/0/0",
        "task": "mosaics",
        "split": "val",
        "index": 2,
        "expected": wrong["expected"],
        "found": wrong["found"],
    }
    assert wrong["expected"] != wrong["found"]


def test_all_problems_are_collected_before_the_command_fails(tiny: Tiny) -> None:
    tiny.file("mosaics/train/image:0").unlink()
    tiny.file("mosaics/test/mask:1").write_bytes(b"")
    flip(tiny.file("mosaics/train/label:2"), 3)
    flip(tiny.root / "recipe.toml", 3)
    (tiny.root / "extra").touch()
    found = kinds(verify(tiny.root).problems)
    assert found >= {
        ("missing", "mosaics/train/image/c/0/0/0"),
        ("another size", "mosaics/test/mask/c/1/0/0"),
        ("damaged", "mosaics/train/label/c/2/0/0"),
        ("wrong label", "mosaics/train/label/c/2/0/0"),
        ("damaged", "recipe.toml"),
        ("another recipe", "recipe.toml"),
        ("unexpected", "extra"),
    }
    # and a root and a length, but no sample that only follows from what is damaged
    assert len(found) <= 9


def test_a_line_names_the_file_the_sample_and_shortened_values(tiny: Tiny) -> None:
    tiny.samples("foreground/train/threshold:0")[1] = 77
    reseal(tiny)
    result = run(tiny.root)
    assert (
        f"{tiny.root}/foreground/train/threshold/c/0: sample 1 of foreground/train: "
        "wrong threshold: expected 0, found 77\n" in result.stdout
    )
    assert "1 problem;" in result.stdout
    assert "checked against the dataset itself\n" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 200 + len(str(tiny.root))


def test_a_wrong_pixel_is_reported_with_its_position(tiny: Tiny) -> None:
    tiny.samples("foreground/train/mask:0")[7, 2, 1] ^= 1
    found = {one.found for one in verify(tiny.root).problems if one.kind == "wrong mask"}
    assert {what[:24] for what in found} == {"another value at (2, 1):"}


def test_a_digit_damaged_in_one_place_is_checked_by_its_copy(tiny: Tiny) -> None:
    flip(tiny.file("foreground/train/image:0"), 20 * 7 + 3)
    found = {(one.kind, one.task, one.index) for one in verify(tiny.root).problems}
    assert found == {
        ("damaged", "foreground", None),
        ("another content of image", "foreground", None),
        ("wrong image", "foreground", 7),
    }


def test_digits_damaged_in_both_tasks_cannot_check_the_columns_derived_from_them(
    tiny: Tiny,
) -> None:
    for task in ("foreground", "circles"):
        flip(tiny.file(f"{task}/train/image:0"), 20 * 7 + 3)
    verdict = verify(tiny.root)
    assert {(one.kind, one.task) for one in verdict.problems} == {
        (kind, task)
        for kind in ("damaged", "another content of image")
        for task in ("foreground", "circles")
    }
    assert (
        "whether the samples of train follow from its images, which are damaged" in verdict.skipped
    )
    assert verdict.samples == 2 * 20 + 8 + 520  # of val and test


def test_the_seed_decides_which_samples_are_checked_and_is_printed(tiny: Tiny) -> None:
    tiny.samples("mosaics/train/label:0")[:] ^= 1
    reseal(tiny)

    def looked_at(seed: int) -> tuple[Verdict, list[int | None]]:
        verdict = verify(tiny.root, sample=40, seed=seed)
        return verdict, [one.index for one in verdict.problems]

    first, again, other = looked_at(5), looked_at(5), looked_at(6)
    assert first[1] == again[1] != other[1]
    assert first[0].level == "sample of 40 (seed 5)"
    assert 0 < len(first[1]) <= 40
    assert "(seed " in run(tiny.root, "--sample", 3).stdout


@pytest.mark.parametrize("count", [1, 30, 300])
def test_a_sample_without_a_fault_bounds_the_share_of_wrong_samples(tiny: Tiny, count: int) -> None:
    bound = verify(tiny.root, sample=count).wrong_at_most
    assert bound is not None
    assert (1 - bound) ** count == pytest.approx(0.05)
    assert bound < 3 / count
    printed = run(tiny.root, "--sample", count)
    assert f"at most {100 * bound:.2g}% of all samples are wrong" in printed.stdout
    facts = json.loads(run(tiny.root, "--sample", count, "--json").stdout)
    assert facts["wrong_at_most"] == bound


def test_nothing_bounds_the_share_of_wrong_samples_without_a_clean_sample(tiny: Tiny) -> None:
    assert verify(tiny.root, quick=True).wrong_at_most is None
    assert verify(tiny.root).wrong_at_most is None
    tiny.samples("mosaics/train/label:0")[:] ^= 1
    reseal(tiny)
    assert verify(tiny.root, sample=10**6).wrong_at_most is None


def test_a_sample_size_above_the_count_checks_everything(tiny: Tiny) -> None:
    assert verify(tiny.root, sample=10**6).samples == 2 * 60 + 1100 + 8 + 520


def test_the_default_folder_is_data_mnist(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    tiny.root.rename(tmp_path / "data/mnist")
    monkeypatch.chdir(tmp_path)
    result = run("--quick")
    assert (
        result.exit_code,
        result.stdout.startswith("✓ data/mnist: nothing wrong found; quick:"),
    ) == (0, True)


@pytest.mark.parametrize(
    ("encoding", "good", "line"),
    [
        ("utf-8", True, "\u2713 data: whole"),
        ("utf-8", False, "\u2717 data: whole"),
        ("ascii", True, "ok: data: whole"),
        ("latin-1", False, "failed: data: whole"),
    ],
)
def test_a_verdict_begins_with_a_sign_or_a_word_that_the_stream_has(
    encoding: str, good: bool, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    print_verdict_line("data: whole", good=good)
    assert written.getvalue().decode(encoding) == f"{line}\n"


def test_a_quick_check_takes_less_than_a_second(tiny: Tiny) -> None:
    started = time.process_time()
    verify(tiny.root, quick=True)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("expect", ["", "abc", "g" * 64, "0" * 63])
def test_an_invalid_digest_cannot_be_expected(tiny: Tiny, expect: str) -> None:
    with pytest.raises(RecipeError, match="not a dataset digest"):
        verify(tiny.root, expect=expect)


def test_the_digest_expected_is_printed_beside_the_one_found(tiny: Tiny) -> None:
    digest = load(tiny.root).digest
    assert (
        verify(tiny.root, quick=True, expect=digest.upper()).checked_against
        == "the digest expected"
    )
    result = run(tiny.root, "--quick", "--expect", "0" * 64)
    assert (
        f"manifest.json: not the digest expected: expected {'0' * 64}, found {digest}"
        in result.stdout
    )
    assert "checked against the dataset itself" in result.stdout


@pytest.mark.parametrize("is_right", [True, False])
def test_the_published_digest_of_a_recipe_is_compared_automatically(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, is_right: bool
) -> None:
    digest = load(tiny.root).digest
    monkeypatch.setattr(recipes, "known_digest", lambda recipe: digest if is_right else "0" * 64)
    verdict = verify(tiny.root, quick=True)
    assert verdict.checked_against == (
        "the digest published for this recipe" if is_right else "the dataset itself"
    )
    assert kinds(verdict.problems) == (
        set() if is_right else {("not the digest published for this recipe", MANIFEST)}
    )


def test_a_named_folder_without_the_source_is_bad_input_and_not_a_problem(tiny: Tiny) -> None:
    flip(tiny.file("circles/val/label:0"), 9)
    result = run(tiny.root, "--source-dir", tiny.root)
    assert result.exit_code == InputError.exit_code
    assert result.stdout == ""
    assert str(tiny.root) in result.stderr


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_of_files_or_memory_is_not_a_problem_of_the_dataset(
    tiny: Tiny, number: int
) -> None:
    dataset = Dataset(tiny.root)
    split = dataset.splits["mosaics", "train"]
    short = OSError(number, os.strerror(number), str(tiny.root / "mosaics/train.shards"))
    damage = DamagedError("cannot be read", path=tiny.root)
    damage.__cause__ = short
    for error in (short, damage):
        with pytest.raises(StorageError, match=os.strerror(number).lower()):
            unreadable(dataset.root, split, error)
    broken = OSError(errno.EIO, os.strerror(errno.EIO), short.filename)
    assert unreadable(dataset.root, split, broken).path == "mosaics/train.shards"


@linux
def test_a_process_that_can_open_no_more_files_exits_with_7(tiny: Tiny) -> None:
    code = (
        "import os, resource, sys; from datagen import verifier, stores; import zarr;"
        "from datagen.__main__ import main;"
        "used = max(map(int, os.listdir('/proc/self/fd')));"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, used + 1));"
        "sys.argv = ['datagen', 'verify', sys.argv[1]]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny.root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "too many open files; raise the limit on open files" in done.stderr


@pytest.mark.parametrize("name", ["empty", "not there"])
def test_a_named_folder_is_searched_for_a_pinned_source_too(tiny: Tiny, name: str) -> None:
    place = tiny.outside / name
    (tiny.outside / "empty").mkdir()
    tiny.edit(
        lambda plain: (plain["recipe"].update(source="mnist"), plain["source"].update(name="mnist"))
    )
    seal(tiny)
    result = run(tiny.root, "--source-dir", place)
    assert result.exit_code in (InputError.exit_code, SourceError.exit_code)
    assert result.stdout == ""
    assert str(place) in result.stderr
    passed_over = CliRunner().invoke(
        cli, ["verify", str(tiny.root)], env={"DATAGEN_SOURCE_DIR": str(place)}
    )
    assert "checked against the dataset itself" in passed_over.stdout


@pytest.mark.parametrize("options", [["--quick"], ["--sample", 3]])
def test_a_level_that_does_not_use_the_source_refuses_one(tiny: Tiny, options: list[Any]) -> None:
    result = run(tiny.root, *options, "--source-dir", tiny.root)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "do not look at the source" in result.stderr


def test_a_seed_without_a_sample_size_is_wrong_usage(tiny: Tiny) -> None:
    assert run(tiny.root, "--seed", 3).exit_code == 2


@pytest.mark.parametrize("level", [{}, {"sample": 50}], ids=["full", "sample"])
def test_a_manifest_that_renames_a_column_is_reported_and_its_digits_are_not_read(
    tiny: Tiny, level: dict[str, Any]
) -> None:
    tiny.edit(
        lambda plain: plain["tasks"]["foreground"]["train"]["columns"][0].update(name="picture")
    )
    seal(tiny)
    assert ("another split", MANIFEST) in kinds(verify(tiny.root, **level).problems)


def test_an_entry_that_cannot_be_examined_is_reported_with_the_rest(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that can be read but not entered lists its entries, without facts about them."""
    scan = os.scandir

    class Entry:
        name = "image"

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            raise PermissionError(13, "Permission denied", self.name)

    @contextmanager
    def listed(path: str | Path) -> Iterator[Iterable[object]]:
        with scan(path) as entries:
            yield [Entry()] if Path(path) == tiny.root / "mosaics/val" else list(entries)

    flip(tiny.file("circles/val/label:0"), 9)
    monkeypatch.setattr(os, "scandir", listed)
    problems = verify(tiny.root, quick=True).problems
    assert ("unreadable", "mosaics/val/image") in kinds(problems)
    assert {problem.found for problem in problems if problem.kind == "missing"} >= {
        "nothing that can be seen"
    }


def test_more_equal_digests_than_are_followed_up_are_reported(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of different images with equal digests, which XXH3 permits, could hide a duplicate."""
    monkeypatch.setattr(
        across, "sample_digests", lambda images: np.zeros((len(images), 16), np.uint8)
    )
    monkeypatch.setattr(across, "SUSPECTS", 1)
    assert ("too many equal digests", "foreground") in kinds(verify(tiny.root).problems)


def test_underived_samples_are_not_counted(
    built: Callable[[str, str], Tiny], tmp_path: Path
) -> None:
    whole = verify(built("zarr", "zstd").root)
    copy = copy_of(built("zarr", "zstd"), tmp_path)
    flip(copy.file("mosaics/val/label:0"), 9)
    assert 0 < verify(copy.root).samples < whole.samples


def test_a_zarr_shard_is_read_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    read, taken = os.preadv, [0]

    def count(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        found = read(descriptor, buffers, offset)
        taken[0] += found
        return found

    monkeypatch.setattr(os, "preadv", count)
    dataset = Dataset(tiny.root)
    shard = Shard(dataset.splits["mosaics", "train"], 0)
    findings = list(check_shard(dataset, shard, None, Slot(1)))
    assert not any(isinstance(one, Problem) for one in findings)
    assert taken[0] == sum(
        tiny.file(f"mosaics/train/{one.name}:0").stat().st_size for one in shard.split.columns
    )


def test_a_folder_that_cannot_be_opened_is_reported_with_the_rest(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def closed(path: str | Path) -> object:
        if Path(path) == tiny.root / "mosaics/val":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    flip(tiny.file("circles/val/label:0"), 9)
    monkeypatch.setattr(os, "scandir", closed)
    problems = verify(tiny.root).problems
    assert ("unreadable", "mosaics/val") in kinds(problems)
    assert ("damaged", tiny.path("circles/val/label:0")) in kinds(problems)
    missing = {problem.found for problem in problems if problem.kind == "missing"}
    assert missing == {"nothing that can be seen"}


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31mred", "\udcff", "x" * 250])
def test_names_in_a_dataset_cannot_control_the_terminal(tiny: Tiny, name: str) -> None:
    (tiny.root / name).touch()
    lines = run(tiny.root, "--quick").stdout.splitlines()
    assert len(lines[0]) < 300 + len(str(tiny.root))
    assert all(line.isprintable() for line in lines)
    assert json.loads(run(tiny.root, "--quick", "--json").stdout)["problems"][0]["path"] == name


def test_an_unknown_task_is_reported_as_skipped(
    built: Callable[[str, str], Tiny], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(built("zarr", "none"), tmp_path)
    flip(copy.file("mosaics/val/label:0"), 9)
    monkeypatch.delitem(TASKS, "mosaics")
    verdict = verify(copy.root)
    assert kinds(verdict.problems) == {
        ("damaged", "mosaics/val/label/c/0/0/0"),
        ("another content of label", "mosaics/val/label/c/0/0/0"),
    }
    assert "whether mosaics is right: no task of that name is known here" in verdict.skipped


def _set_claim(plain: Any, path: str, value: Any) -> None:
    *way, last = path.split("/")
    for part in way:
        plain = plain[part]
    plain[last] = value


CLAIMS = {
    "source/tile": ([1025, 4], "images of at most 1024 x 1024"),
    "source/classes": (["one"] * 255, "1 to 254 classes"),
    "source/conflicts_listed": (
        ["val[0] = 1, kept train[3] = 2"],
        "from 1 (those listed) to 0 (those dropped)",
    ),
    "recipe/mosaics/val": (40**4, "at most 4,096 mosaics in val, of 8 images"),
}


@pytest.mark.parametrize("path", CLAIMS)
def test_an_impossible_claim_is_reported_and_nothing_is_derived(tiny: Tiny, path: str) -> None:
    value, expected = CLAIMS[path]
    tiny.edit(partial(_set_claim, path=path, value=value))
    if path == "source/tile":  # version 1 has images of 512 x 512 at most
        tiny.edit(partial(_set_claim, path="format/version", value=2))
    seal(tiny)
    verdict = verify(tiny.root)
    problems = {
        one.expected[: len(expected)] for one in verdict.problems if one.kind == "contradiction"
    }
    assert (problems, verdict.samples) == ({expected}, 0)
    assert "samples of shards that are not as the manifest says" in verdict.skipped


def test_each_row_of_a_table_must_have_the_digest_of_its_file(
    built: Callable[[str, str], Tiny], tmp_path: Path
) -> None:
    copy = copy_of(built("hdf5", "none"), tmp_path)
    table = copy.table("mosaics", "train")
    # that of the image; the other columns, in the same file, are right
    table[0, 1]["file_digest"] ^= 1
    (copy.root / "mosaics/train.shards").write_bytes(table.tobytes())
    seal(copy)
    assert kinds(verify(copy.root).problems) == {("damaged", "mosaics/train/00001.h5")}


def _insert(data: bytes) -> bytes:
    return data[:-36] + b"hidden" + data[-36:]


def _empty(data: bytes) -> bytes:
    return b""


def _another_sum(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _too_short(data: bytes) -> bytes:
    return bytes(8) + zarr_store.crc32c(bytes(8)).to_bytes(4, "little")


def _more_chunks(data: bytes) -> bytes:
    index = bytearray(data[-36:-4])
    index[16:] = struct.pack("<QQ", 0, 10)
    return data[:-36] + index + zarr_store.crc32c(bytes(index)).to_bytes(4, "little")


@pytest.mark.parametrize("change", [_insert, _empty, _another_sum, _too_short, _more_chunks])
def test_a_compressed_shard_holds_only_its_chunks_and_their_index(
    built: Callable[[str, str], Tiny], tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    copy = copy_of(built("zarr", "zstd"), tmp_path)
    path = copy.file("mosaics/val/digest:0")  # of one chunk, where there is place for two
    path.write_bytes(change(path.read_bytes()))
    reseal(copy)
    verdict = verify(copy.root)
    assert kinds(verdict.problems) == {("misleading", copy.path("mosaics/val/digest:0"))}
    assert "samples of shards that are not as the manifest says" in verdict.skipped


# A hostile dataset.


def edit_columns(tiny: Tiny, task: str, split: str, change: Callable[[Any], object]) -> None:
    tiny.edit(lambda plain: change(plain["tasks"][task][split]))
    seal(tiny)


@pytest.mark.parametrize("name", FORMATS)
def test_a_path_outside_the_format_is_not_read(
    built: Callable[[str, str], Tiny], tmp_path: Path, name: str
) -> None:
    copy = copy_of(built(name, "none"), tmp_path)
    (copy.root / "elsewhere").symlink_to(copy.outside)
    os.mkfifo(copy.outside / "0")  # opening it would block for ever
    edit_columns(
        copy,
        "mosaics",
        "val",
        lambda facts: [one.update(path="elsewhere/{shard}") for one in facts["columns"]],
    )
    verdict = verify(copy.root)
    assert ("another path", MANIFEST) in kinds(verdict.problems)
    assert ("unexpected", "elsewhere") in kinds(verdict.problems)


@pytest.mark.parametrize("place", ["foreground/train", "mosaics", "mosaics/train/image/c"])
def test_a_linked_folder_is_not_entered(tiny: Tiny, place: str) -> None:
    (tiny.root / place).rename(tiny.outside / "there")
    (tiny.root / place).symlink_to(tiny.outside / "there")
    found = verify(tiny.root).problems
    assert ("unexpected", place) in kinds(found)
    assert any(one.kind == "missing" and one.path.startswith(place) for one in found)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make", [os.mkfifo, _socket, Path.mkdir, lambda path: path.symlink_to("/dev/zero")]
)
@pytest.mark.parametrize("name", FORMATS)
def test_only_regular_files_are_opened(
    built: Callable[[str, str], Tiny], tmp_path: Path, name: str, make: Callable[[Path], object]
) -> None:
    copy = copy_of(built(name, "none"), tmp_path)
    frame_file = "foreground/val/zarr.json" if name == "zarr" else "foreground/val/all.h5"
    make_older(copy.root)
    places = ["recipe.toml", "circles/train.shards", frame_file, copy.path("mosaics/train/image:1")]
    for place in places:
        (copy.root / place).unlink()
        make(copy.root / place)
    assert {("missing", place) for place in places} <= kinds(verify(copy.root).problems)


@pytest.mark.parametrize("name", FORMATS)
def test_metadata_missing_from_the_manifest_are_not_opened(
    built: Callable[[str, str], Tiny], tmp_path: Path, name: str
) -> None:
    copy = copy_of(built(name, "none"), tmp_path)
    path = "foreground/val/image/zarr.json" if name == "zarr" else "foreground/val/all.h5"
    (copy.root / path).unlink(missing_ok=True)
    os.mkfifo(copy.root / path)
    seal(copy)
    found = verify(copy.root).problems
    assert (("not listed", MANIFEST) in kinds(found)) == (name == "zarr")
    assert ("unexpected", path) in kinds(found)


def test_a_manifest_that_is_a_pipe_is_refused(tiny: Tiny) -> None:
    (tiny.root / MANIFEST).unlink()
    os.mkfifo(tiny.root / MANIFEST)
    assert run(tiny.root).exit_code == 4


def test_the_depth_of_folders_is_limited(tiny: Tiny) -> None:
    deep = "/".join(["deep"] * 500)
    (tiny.root / deep).mkdir(parents=True)
    (one,) = verify(tiny.root, quick=True).problems
    assert (one.kind, one.path, one.found) == (
        "unexpected",
        "/".join(["deep"] * 13),
        "a folder too deep",
    )


def test_a_file_that_shrinks_is_a_problem_and_not_a_crash(tiny: Tiny) -> None:
    dataset = Dataset(tiny.root)
    split = dataset.splits["mosaics", "train"]
    os.truncate(tiny.file("mosaics/train/image:0"), 1000)
    with (
        ShardReader(dataset, Shard(split, 0)) as reader,
        pytest.raises(DamagedError, match="ends early"),
    ):
        reader.read(split.columns[0], range(SHARD))


@pytest.mark.parametrize("level", [{}, {"sample": 2000}], ids=["full", "sample"])
def test_a_file_that_disappears_during_the_check_is_reported_with_the_rest(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, level: dict[str, Any]
) -> None:
    flip(tiny.file("mosaics/val/label:0"), 9)
    place = tiny.path("mosaics/train/image:1")

    def taken_after(root: Path) -> structure.Entries:
        entries = list_entries(root)
        (root / place).unlink()
        return entries

    monkeypatch.setattr(structure, "list_entries", taken_after)
    found = kinds(verify(tiny.root, **level).problems)
    assert found >= {("unreadable", place), ("wrong label", "mosaics/val/label/c/0/0/0")}


@linux
def test_a_huge_count_is_refuted_by_the_existing_files(tiny: Tiny, warm: Warm) -> None:
    shards = 1 << 20  # their table would take 380 MB

    def grow(plain: Any) -> None:
        facts = plain["tasks"]["mosaics"]["train"]
        plain["recipe"]["mosaics"]["train"] = facts["count"] = shards * SHARD
        facts["table"]["bytes"] = shards * 5 * 72

    os.truncate(tiny.root / "mosaics/train.shards", shards * 5 * 72)  # takes no place on the disk
    tiny.edit(grow)
    seal(tiny)
    result = limited(warm, tiny.root, memory=256 << 20)
    assert result.returncode == 1, result.stderr
    assert ("missing", "mosaics/train") in kinds(json.loads(result.stdout)["problems"])


def reshape(tiny: Tiny, tile: int, count: int | None = None) -> None:
    """Let the manifest claim digits of another size, and perhaps so many in `train`."""

    def change(plain: Any) -> None:
        plain["source"]["tile"] = [tile, tile]
        plain["source"]["digits"]["train"]["count"] = (
            count or plain["source"]["digits"]["train"]["count"]
        )
        recipe = recipes.from_table(plain["recipe"], origin="")
        for task, splits in plain["tasks"].items():
            for column, due in (
                (c, d) for s in splits.values() for c, d in _due(task, tile, recipe, s["columns"])
            ):
                column["shape"] = list(due)
        for task in ("foreground", "circles"):
            plain["tasks"][task]["train"]["count"] = plain["source"]["digits"]["train"]["count"]

    tiny.edit(change)
    seal(tiny)


def _due(
    task: str, tile: int, recipe: recipes.Recipe, columns: list[Any]
) -> Iterator[tuple[Any, tuple[int, ...]]]:
    images = ImageFacts((tile, tile))
    for column, due in zip(columns, TASKS[task].columns(images, recipe.mosaics), strict=True):
        yield column, due.shape


@pytest.mark.parametrize(("packed", "side"), [("zstd", 8), ("none", 64)])
def test_a_sample_too_large_to_read_at_once_is_refused(
    built: Callable[[str, str], Tiny],
    tmp_path: Path,
    packed: str,
    side: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit is lowered, since a mosaic of 64 x 64 tiles of 512 x 512 has just 2^30 bytes."""
    copy = copy_of(built("zarr", packed), tmp_path)
    copy.edit(lambda plain: plain["recipe"]["mosaics"].update(grid=[side, side]))
    reshape(copy, 512)
    monkeypatch.setattr(structure, "_MAX_DECODED", 1 << 29)
    found = [one for one in verify(copy.root).problems if one.kind == "too large"]
    assert {(one.path, one.task) for one in found} == {(MANIFEST, "mosaics")}


def _set_roots(facts: Any, root: str) -> None:
    for column in facts["columns"]:
        column["root"] = root


@linux
def test_digits_that_memory_cannot_hold_are_reported_as_skipped(tiny: Tiny, warm: Warm) -> None:
    """Files of nothing but holes, as large as the manifest says, cost a forger nothing."""
    count, tile = SHARD * 4, 512
    sizes = {"threshold": 1, "label": 1, "circle": 32}
    for task in ("foreground", "circles"):
        columns = [one["name"] for one in tiny.manifest["tasks"][task]["train"]["columns"]]
        table = np.zeros((len(columns), count // SHARD), SHARD_FACTS)
        for name, line in zip(columns, table, strict=True):
            line["length"] = SHARD * sizes.get(name, tile * tile)
            line["file_bytes"] = line["length"] + 36
            for shard, row in enumerate(line):
                path = tiny.file(f"{task}/train/{name}:{shard}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                os.truncate(path, int(row["file_bytes"]))
        (tiny.root / f"{task}/train.shards").write_bytes(table.tobytes())
        root = merkle_root([bytes(32)] * (count // SHARD)).hex()
        edit_columns(tiny, task, "train", partial(_set_roots, root=root))
    reshape(tiny, tile, count)
    result = limited(warm, tiny.root, "--sample", "3000", memory=400 << 20)
    assert result.returncode == 1, result.stderr
    held = (
        "whether the samples of train follow from its images: no room for them, "
        f"{count * tile * tile:,} bytes ("
    )
    assert any(one.startswith(held) for one in json.loads(result.stdout)["not_looked_at"])


def zstd_frame(size: int, stated: int | None) -> bytes:
    """Make a Zstandard frame (RFC 8878) of `size` zeros; its header states this size, or none."""
    header = b"\x00\x58" if stated is None else b"\xe0" + struct.pack("<Q", stated)
    runs = [min(1 << 17, size - start) for start in range(0, size, 1 << 17)]
    blocks = b"".join(
        struct.pack("<I", length << 3 | 1 << 1 | (number == len(runs) - 1))[:3] + b"\0"
        for number, length in enumerate(runs)
    )
    return b"\x28\xb5\x2f\xfd" + header + blocks


BOMBS = {
    "circles/val/label:0": BOMB,  # what the frame states; of a digit
    "mosaics/train/mask:2": 256 * 80,  # what a chunk must have
    "mosaics/test/mask:1": None,
}


def plant_bomb(tiny: Tiny, place: str, frame: bytes) -> None:
    """Put a frame in the place of the first chunk of a column's shard."""
    path = tiny.file(place)
    if tiny.format == "hdf5":
        name = place.split("/")[2].partition(":")[0]
        with h5py.File(path, "r+") as file:
            file[name].id.write_direct_chunk((0,) * file[name].ndim, frame)
    else:
        index = np.full((SHARD // 256, 2), (1 << 64) - 1, "<u8")
        index[0] = 0, len(frame)
        data = index.tobytes()
        path.write_bytes(frame + data + zarr_store.crc32c(data).to_bytes(4, "little"))


@linux
@pytest.mark.parametrize("options", [(), ("--sample", "5000")], ids=["full", "sample"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_chunk_that_decodes_to_too_much_takes_no_memory(
    built: Callable[[str, str], Tiny],
    tmp_path: Path,
    name: str,
    options: tuple[str, ...],
    warm: Warm,
) -> None:
    copy = copy_of(built(name, "zstd"), tmp_path)
    for place, stated in BOMBS.items():
        plant_bomb(copy, place, zstd_frame(BOMB, stated))
    reseal(copy)
    result = limited(warm, copy.root, *options)
    assert result.returncode == 1, result.stderr[-2000:]
    problems = json.loads(result.stdout)["problems"]
    for place, stated in BOMBS.items():
        found = {one["kind"] for one in problems if one["path"] == copy.path(place)}
        # zarr says that it cannot decode it, HDF5 gives what it has
        lied = {"unreadable", "wrong mask"}
        where = {one["kind"] for one in problems if one["path"] == "mosaics/train/mask"}
        assert (found | where) & lied if stated == 256 * 80 else "misleading" in found, (
            place,
            problems,
        )


@pytest.mark.parametrize("path", ["payload.bin", "c/zarr.json", "mosaics/zarr.jsn"])
def test_an_unneeded_file_is_reported_even_if_the_manifest_lists_it(tiny: Tiny, path: str) -> None:
    (tiny.root / path).parent.mkdir(exist_ok=True)
    (tiny.root / path).write_bytes(b"{}")
    listed = {"path": path, "bytes": 2, "digest": ""}
    tiny.edit(
        lambda plain: plain.update(
            files=sorted([*plain["files"], listed], key=lambda file: str(file["path"]))
        )
    )
    seal(tiny)
    found = verify(tiny.root, quick=True).problems
    assert [(one.kind, one.path, one.found) for one in found] == [
        ("unexpected", path, "a file that the manifest lists")
    ]


def test_a_source_folder_from_the_environment_is_used_only_if_it_has_the_source(
    tiny: Tiny, tmp_path: Path
) -> None:
    environment = {"DATAGEN_SOURCE_DIR": str(tmp_path / "elsewhere")}
    done = CliRunner().invoke(
        cli, ["verify", str(tiny.root)], env=environment, catch_exceptions=False
    )
    assert done.exit_code == 0
    assert run(tiny.root, "--source-dir", tmp_path / "elsewhere").exit_code != 0


@pytest.mark.parametrize("difference", ["another source", "no source"])
def test_a_different_source_is_skipped_in_the_environment_and_reported_if_named(
    tiny: Tiny, tmp_path: Path, difference: str
) -> None:
    place = (
        tiny.other.with_suffix(".npz") if difference == "another source" else tmp_path / "empty.npz"
    )
    if difference == "no source":
        np.savez(place, images=np.zeros((0, 5, 4), np.uint8), labels=np.zeros(0, np.uint8))
    environment = {"DATAGEN_SOURCE_DIR": str(place)}
    done = CliRunner().invoke(
        cli, ["verify", str(tiny.root)], env=environment, catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "checked against the dataset itself" in done.output
    assert (f"skipped: the source in {place}, which is another" in done.output) == (
        difference[0] == "a"
    )
    assert run(tiny.root, "--source-dir", place).exit_code != 0


def test_a_pinned_source_in_the_environment_contradicts_the_dataset(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pinned source is the same in every folder, so a dataset of another source is wrong."""
    source = planning.resolve(
        recipes.from_table(tiny.manifest["recipe"], origin="test"),
        directory=tiny.other.with_suffix(".npz"),
    ).source
    tiny.edit(
        lambda plain: (plain["recipe"].update(source="mnist"), plain["source"].update(name="mnist"))
    )
    seal(tiny)
    monkeypatch.setattr("datagen.sources.load", lambda *_, **__: replace(source, name="mnist"))
    found = verify(tiny.root, source_dir=tmp_path, source_optional=True).problems
    assert "another source" in {one.kind for one in found}


@pytest.mark.parametrize("options", [(), ("--sample", "5000")], ids=["full", "sample"])
@pytest.mark.parametrize("name", FORMATS)
def test_misleading_metadata_do_not_decide_how_samples_are_decoded(
    built: Callable[[str, str], Tiny],
    tmp_path: Path,
    name: str,
    options: tuple[str, ...],
    warm: Warm,
) -> None:
    copy = copy_of(built(name, "zstd"), tmp_path)
    if name == "hdf5":  # the shard leads to another file
        path = "mosaics/train/00000.h5"
        with h5py.File(copy.root / path, "r+") as file:
            shape = file["image"].shape
            del file["image"]
            layout = h5py.VirtualLayout(shape, np.uint8)
            layout[:] = h5py.VirtualSource(copy.outside / "secret.h5", "image", shape)
            file.create_virtual_dataset("image", layout)
        reseal(copy)
    else:
        path = "mosaics/train/image/zarr.json"
        document = json.loads((copy.root / path).read_bytes())
        document["shape"][1] = document["chunk_grid"]["configuration"]["chunk_shape"][1] = 1 << 19
        document["codecs"][0]["configuration"]["chunk_shape"][1] = 1 << 19
        (copy.root / path).write_text(json.dumps(document))
    seal(copy)
    short = copy.path("mosaics/train/mask:1")
    (copy.root / short).write_bytes(b"")
    found = json.loads(run(copy.root, "--json", *options).output)
    assert {(one["kind"], one["path"]) for one in found["problems"]} == {
        ("misleading", path),
        ("another size", short),
    }
    if not options:
        assert "samples of shards that are not as the manifest says" in found["not_looked_at"]


def test_unreadable_metadata_are_reported_with_the_rest(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "circles/val/mask/zarr.json"
    flip(tiny.file("mosaics/train/mask:1"), 9)
    opened = Path.open

    def fail(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == tiny.root / path:
            raise OSError(5, "Input/output error", str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    found = {(one.kind, one.path) for one in verify(tiny.root).problems}
    assert {
        ("unreadable", path),
        ("misleading", path),
        ("damaged", tiny.path("mosaics/train/mask:1")),
    } <= found


def test_images_without_derived_digests_are_not_called_distinct(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    matter = "whether all images are distinct"
    assert matter not in verify(tiny.root).skipped

    def scratch(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr("datagen.arrays.scratch", scratch)
    assert matter in verify(tiny.root).skipped


def test_a_recipe_that_names_another_source_contradicts_the_manifest(tiny: Tiny) -> None:
    tiny.edit(lambda plain: plain["recipe"].update(source="images"))
    seal(tiny)
    found = {(one.kind, one.expected, one.found) for one in verify(tiny.root, quick=True).problems}
    assert ("contradiction", "the source of the recipe, images", "npz") in found


@pytest.mark.parametrize("source", ["npz:/anywhere", "images:/", "idx:../there"])
def test_a_source_with_a_path_is_not_trusted(tiny: Tiny, source: str) -> None:
    tiny.edit(lambda plain: plain["recipe"].update(source=source))
    seal(tiny)
    result = run(tiny.root, "--source-dir", tiny.source)
    assert result.exit_code == 5
    assert "without a path" in result.output


def test_a_shard_that_misleads_the_library_is_still_checked_by_derivation(tiny: Tiny) -> None:
    path = tiny.file("mosaics/val/mask:0")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    reseal(tiny)
    verdict = verify(tiny.root)
    assert {(one.kind, one.path) for one in verdict.problems} == {
        ("misleading", tiny.path("mosaics/val/mask:0"))
    }
    assert "samples of shards that are not as the manifest says" not in verdict.skipped


@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_consolidated_metadata_are_recognised_and_a_build_restores_the_originals(
    built: Callable[[str, str], Tiny], tmp_path: Path
) -> None:
    copy = copy_of(built("zarr", "none"), tmp_path)
    before = tree(copy.root)
    zarr.consolidate_metadata(str(copy.root / "mosaics/train"))
    for level in ({"quick": True}, {"sample": 100}, {}):
        (problem,) = verify(copy.root, **level).problems
        assert (problem.kind, problem.path) == ("consolidated", "mosaics/train/zarr.json")
        assert problem.expected == "the metadata that the build wrote"
        assert "touches no sample" in problem.found
    recorded = recipes.from_table(copy.manifest["recipe"], origin="test")
    assert builder.build(recorded, copy.root, directory=copy.source).written == 0
    assert tree(copy.root) == before


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_the_root_tells_zarr_of_all_columns_and_is_checked(
    built: Callable[[str, str], Tiny], tmp_path: Path
) -> None:
    copy = copy_of(built("zarr", "none"), tmp_path)
    root = zarr.open_group(copy.root, mode="r", use_consolidated=True)
    assert root.attrs["dataset_digest"] == copy.manifest["digest"]
    label = root["mosaics/train/label"]
    assert label.attrs["flag_values"] == list(range(10))
    assert len(str(label.attrs["flag_meanings"]).split()) == 10
    path = copy.root / "zarr.json"
    before = path.read_bytes()
    zarr.consolidate_metadata(str(copy.root))
    assert [(one.kind, one.path) for one in verify(copy.root, quick=True).problems] == [
        ("consolidated", "zarr.json")
    ]
    for forged in (
        before.replace(b'"fill_value": 255', b'"fill_value": 0'),
        before.replace(b'"license": "', b'"license": "not '),
    ):
        assert forged != before
        path.write_bytes(forged)
        seal(copy)
        found = verify(copy.root, quick=True).problems
        assert [(one.kind, one.path) for one in found] == [("misleading", "zarr.json")]
