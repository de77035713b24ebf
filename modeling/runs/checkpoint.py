"""Checkpoints: one safetensors file, whole or absent, whose header carries the facts about its
tensors as JSON.

Tensors and facts are written together and covered by one digest, so that neither can be out of step
or damaged unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from modeling.errors import DamagedError, FormatError, StorageError, explain, storage_errors
from modeling.files import write_atomic

FORMAT = "modeling checkpoint 2"
_KEY = "checkpoint"  # the only entry of the file's own metadata: several would come in any order


def save(path: Path | str, tree: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write `tree` and `facts` to `path`, durably, in place of what was there.

    `tree` is what torch calls a state: dictionaries and lists of tensors and plain values, such as
    `{"model": model.state_dict(), "optimizer": optimizer.state_dict()}`. `facts` is JSON. Raises
    StorageError.
    """
    tensors: dict[str, Tensor] = {}
    packed = _pack(tree, "", tensors)
    header = json.dumps({"format": FORMAT, "facts": facts, "tree": packed}, allow_nan=False)
    metadata = json.dumps({"digest": _digest(header, tensors), "header": header})
    write_atomic(path, safetensors.torch.save(tensors, {_KEY: metadata}))


def load(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The `tree` and the `facts` that `save` wrote, tensors on the CPU and in memory of their own.

    Raises FormatError where there is none or something else, DamagedError where a bit is wrong,
    StorageError where it cannot be read.
    """
    path = Path(path)
    with storage_errors(path):
        there = path.is_file()
        if there:
            # safetensors takes a file that is closed to this user for one that is not there
            path.open("rb").close()
    if not there:
        raise FormatError(
            "there is no checkpoint",
            path=path,
            remedy="name the folder of one task of a run, such as runs/circles, or train first: modeling train",
        )
    try:
        with storage_errors(path), safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it cannot be iterated)
    except safetensors.SafetensorError as error:
        told = explain(error)
        raise told if isinstance(told, StorageError) else _damaged(path) from error
    if _KEY not in metadata:
        raise FormatError(
            "not a checkpoint", path=path, expected=FORMAT, found="another safetensors file"
        )
    try:
        digest, header = itemgetter("digest", "header")(json.loads(metadata[_KEY]))
        if _digest(header, tensors) != digest:
            raise _damaged(path)
        stated, tree, facts = itemgetter("format", "tree", "facts")(json.loads(header))
        if stated != FORMAT:
            raise FormatError(
                "a checkpoint of another version",
                path=path,
                expected=FORMAT,
                found=ascii(stated)[:64],
                remedy="it was written by another version of this program; train anew in another folder: --out",
            )
        return _unpack(tree, tensors), facts
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise _damaged(path) from error


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values: equal for equal weights, wherever they lie."""
    return _digest("", {name: tensor.detach().cpu() for name, tensor in state.items()})


def _damaged(path: Path) -> DamagedError:
    return DamagedError(
        "the checkpoint is damaged", path=path, remedy="train anew in another folder: --out"
    )


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A tree as JSON, its tensors put into `tensors` under their paths in the tree."""
    if isinstance(value, Tensor):
        # Kernels in channels-last order come back so: the same values in another order may add up
        # to other bits.
        swapped = value.dim() == 4 and not value.is_contiguous()
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name, "channels_last": swapped}
    if isinstance(value, Mapping):
        return {
            "entries": [
                [key, _pack(item, f"{name}/{key}".lstrip("/"), tensors)]
                for key, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        return {
            "items": [
                _pack(item, f"{name}/{i}".lstrip("/"), tensors) for i, item in enumerate(value)
            ]
        }
    return value


def _unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "entries" in packed:
        return {key: _unpack(item, tensors) for key, item in packed["entries"]}
    if "items" in packed:
        return [_unpack(item, tensors) for item in packed["items"]]
    layout = torch.channels_last if packed["channels_last"] else torch.contiguous_format
    return tensors[packed["tensor"]].clone(memory_format=layout)


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    hasher = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        hasher.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
