"""Test that each fuzz target takes its first inputs, and fails if its reader has a defect."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fuzz
import fuzz_targets
import numpy as np
import pytest
from fuzz_checks import taken
from fuzz_inputs import GOLDEN
from fuzz_targets import TARGETS, forged
from isolation import ROOT

from datagen import manifest as manifests
from datagen.errors import InputError

READERS = {
    "idx": "datagen.sources.idx.decode",
    "manifest": "datagen.recipe.from_table",
    "recipe": "datagen.recipe.parse",
    "table": "datagen.dataset.table_from_bytes",
    "npz": "datagen.sources.npz.read_header",
    "mat": "datagen.sources.matlab._upright",
    "picture": "datagen.sources.pictures.decode",
    "dicom": "datagen.sources.picture_files._moved",
    "nifti": "datagen.sources.picture_files._moved",
    "labels": "datagen.sources.label_table._records",
    "shard": "datagen.stores.zarr.read_rows",
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_accepts_its_first_inputs(name: str) -> None:
    for data in TARGETS[name].seeds():
        assert len(data) <= TARGETS[name].max_bytes
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_foreign_error_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = TARGETS[name].seeds()

    def fail(*_: object, **__: object) -> None:
        raise LookupError("planted")

    monkeypatch.setattr(READERS[name], fail)
    with pytest.raises(LookupError, match="planted"):
        for data in seeds:
            TARGETS[name].check(data)


def test_a_message_must_be_short_and_printable() -> None:
    def refuse(message: str) -> None:
        raise InputError(message)

    def refuse_raw(message: str) -> None:
        error = InputError("")
        error.args = (message,)  # past the escapes of the class
        raise error

    assert taken(refuse, "one line\nand another") is None
    assert taken(refuse, "\x1b[2J") is None  # the class itself escapes it
    for refused, message in ((refuse, "x" * 20_001), (refuse_raw, "\x1b[2J")):
        with pytest.raises(AssertionError, match="a message"):
            taken(refused, message)


def test_recomputed_digests_fit_a_manifest() -> None:
    whole = (GOLDEN / "zarr" / "manifest.json").read_bytes()
    assert forged(whole) == whole
    for reduced in TARGETS["manifest"].seeds():
        forgery = forged(reduced)
        assert forgery is not None
        assert len(manifests.from_bytes(forgery, path=Path("manifest.json")).tasks) == 1
    assert forged(b"[]") is forged(b"{") is forged(b"[" * 100_000) is None


def test_recomputed_checksums_fit_an_archive() -> None:
    for archive in TARGETS["npz"].seeds()[2:]:
        place = archive.index(b"PK\1\2") + 16
        damaged = archive[:place] + bytes(4) + archive[place + 4 :]
        assert fuzz_targets._with_checksums(damaged) == archive


@pytest.mark.skipif(not fuzz.STATM.exists(), reason="what a process holds is known on Linux only")
def test_an_input_that_takes_too_much_memory_is_found() -> None:
    with fuzz.MemoryLimit():
        np.empty(fuzz.MEMORY // 2, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(2 * fuzz.MEMORY, np.uint8)
    np.empty(2 * fuzz.MEMORY, np.uint8)


def test_every_target_can_be_run() -> None:
    assert set(fuzz.NAMES) == set(TARGETS)


def test_the_documentation_has_the_figures_of_the_published_run() -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    published = json.loads((ROOT / "results" / "fuzz.json").read_text("utf-8"))
    assert set(published["targets"]) == set(TARGETS)
    for name, run in published["targets"].items():
        assert run["findings"] == 0
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith(f"| {run['executions']:,} | {run['edges']:,} | {run['corpus']:,} |")
    total = sum(run["seconds"] for run in published["targets"].values())
    assert total >= 30 * 60
    assert f"{total:,.0f} seconds in all, no finding" in " ".join(page.split())


@pytest.mark.long  # Atheris instruments the libraries for six seconds before it begins
@pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info >= (3, 14),
    reason="Atheris is for Linux and Python below 3.14",
)
def test_a_run_reports_its_figures(tmp_path: Path) -> None:
    figures = fuzz.run("idx", 1, 1, tmp_path / "corpus", tmp_path / "findings")
    assert figures["executions"] > 0
    assert figures["edges"] > 0
    assert figures["found"] == []
