"""Test that checkpoints are restored bit for bit, and that damage is found."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.errors import DamagedError, FormatError, StorageError
from modeling.runs import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

FACTS = {"step": 7, "rate": 0.1, "history": [{"iou": None}]}


def tree() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    kernel = torch.randn(4, 3, 3, 3, generator=generator)
    return {
        "model": {"kernel": kernel.to(memory_format=torch.channels_last), "count": torch.tensor(3)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(2.0), "moment": kernel * 0.1, "none": None}, 1: {}},
            "param_groups": [
                {"lr": 1e-3 / 3, "betas": (0.9, 0.95), "params": [0, 1], "nesterov": True}
            ],
        },
        "half": torch.randn(5, generator=generator).to(torch.bfloat16),
        "empty": torch.zeros(0, 2),
    }


def test_a_tree_comes_back_bit_for_bit_with_its_types_keys_and_layout(tmp_path: Path) -> None:
    saved = tree()
    checkpoint.save(tmp_path / "a", saved, FACTS)
    loaded, facts = checkpoint.load(tmp_path / "a")
    assert list(facts.items()) == list(FACTS.items())
    assert loaded["optimizer"]["param_groups"] == [
        {**saved["optimizer"]["param_groups"][0], "betas": [0.9, 0.95]}
    ]
    assert list(loaded["optimizer"]["state"]) == [0, 1]
    assert loaded["optimizer"]["state"][0]["none"] is None
    for place in (("model", "kernel"), ("model", "count"), ("half",), ("empty",)):
        old: Any = saved
        new: Any = loaded
        for key in place:
            old, new = old[key], new[key]
        assert torch.equal(old, new)
        assert old.dtype == new.dtype
        assert old.stride() == new.stride()
    assert torch.equal(
        loaded["optimizer"]["state"][0]["moment"], saved["optimizer"]["state"][0]["moment"]
    )


def test_equal_content_has_equal_bytes(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", tree(), FACTS)
    checkpoint.save(tmp_path / "b", tree(), dict(FACTS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", {"x": torch.ones(1000)}, {})
    loaded, _ = checkpoint.load(tmp_path / "a")
    with (tmp_path / "a").open("r+b") as file:
        file.write(bytes((tmp_path / "a").stat().st_size))
    assert torch.equal(loaded["x"], torch.ones(1000))


@given(st.data())
def test_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a"
    checkpoint.save(path, {"x": torch.arange(6.0), "y": {"z": torch.tensor([1, 2])}}, FACTS)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises((DamagedError, FormatError)) as caught:
        checkpoint.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_damaged(tmp_path: Path, keep: int) -> None:
    checkpoint.save(tmp_path / "a", tree(), FACTS)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:keep])
    with pytest.raises(DamagedError):
        checkpoint.load(tmp_path / "a")


def test_another_safetensors_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "a")
    with pytest.raises(FormatError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "a")


def test_a_checkpoint_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", "modeling checkpoint 1")
    checkpoint.save(tmp_path / "a", tree(), FACTS)
    monkeypatch.undo()
    with pytest.raises(
        FormatError,
        match=r"expected modeling checkpoint 2, found 'modeling checkpoint 1'\); .*train again",
    ):
        checkpoint.load(tmp_path / "a")


def test_a_missing_checkpoint_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "a")


def test_values_outside_json_leave_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", tree(), FACTS)
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        checkpoint.save(tmp_path / "a", tree(), {"loss": float("nan")})
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_in_place_of_the_file_is_a_storage_error_and_leaves_no_temporary_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StorageError):
        checkpoint.save(tmp_path / "a", tree(), FACTS)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_file_is_plain_safetensors_with_one_entry_of_metadata(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a", tree(), FACTS)
    content = (tmp_path / "a").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert list(header["__metadata__"]) == ["checkpoint"]
    assert header["model/kernel"]["shape"] == [4, 3, 3, 3]


def test_the_weights_digest_depends_on_values_and_not_on_layout() -> None:
    kernel = tree()["model"]["kernel"]
    same = checkpoint.weights_digest({"a": kernel, "b": torch.zeros(2)})
    assert checkpoint.weights_digest({"b": torch.zeros(2), "a": kernel.contiguous()}) == same
    assert checkpoint.weights_digest({"b": torch.zeros(2), "a": kernel + 1e-6}) != same
    assert checkpoint.weights_digest({"c": torch.zeros(2), "a": kernel}) != same
