"""Save and load checkpoints: safetensors files, whole or absent, with facts in their headers.

Tensors and facts are written together and covered by one digest, so neither can be out of step with
the other, or damaged unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from modeling.decoding import DecodeError, decode
from modeling.errors import (
    OTHER_VERSION,
    DamagedError,
    FormatError,
    StorageError,
    explain,
    storage_errors,
)
from modeling.files import write_atomic

FORMAT = "modeling checkpoint 2"
_KEY = "checkpoint"  # the only entry of the file's metadata: the order of several would vary


class _Metadata(TypedDict):
    digest: str
    header: str


class _Header(TypedDict):
    format: str
    facts: dict[str, Any]
    tree: dict[str, Any]


def save(path: Path | str, tree: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write `tree` and `facts` to `path`, durably, in place of the file that was there.

    `tree` is a state as torch has it: dictionaries and lists of tensors and plain values, such as
    `{"model": model.state_dict(), "optimizer": optimizer.state_dict()}`. `facts` is JSON. Raises
    StorageError.
    """
    tensors: dict[str, Tensor] = {}
    packed = _pack(tree, "", tensors)
    header = json.dumps({"format": FORMAT, "facts": facts, "tree": packed}, allow_nan=False)
    metadata = json.dumps({"digest": _digest(header, tensors), "header": header})
    write_atomic(path, safetensors.torch.save(tensors, {_KEY: metadata}))


def load(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the `tree` and the `facts` that `save` wrote, tensors on the CPU and in new memory.

    Raises FormatError if there is no checkpoint or something else, DamagedError if a bit is wrong,
    StorageError if the file cannot be read.
    """
    path = Path(path)
    with storage_errors(path):
        exists = path.is_file()
        if exists:
            # safetensors reports a file that this user may not read as missing
            path.open("rb").close()
    if not exists:
        raise FormatError(
            "there is no checkpoint",
            path=path,
            remedy="name the folder of one task of a run, such as runs/circles, or train first:"
            " modeling train",
        )
    try:
        with storage_errors(path), safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        explained = explain(error)
        raise explained if isinstance(explained, StorageError) else _damaged(path) from error
    if _KEY not in metadata:
        raise FormatError(
            "not a checkpoint", path=path, expected=FORMAT, found="another safetensors file"
        )
    try:
        stated = decode(_Metadata, json.loads(metadata[_KEY]))
        if _digest(stated["header"], tensors) != stated["digest"]:
            raise _damaged(path)
        header = decode(_Header, json.loads(stated["header"]))
        if header["format"] != FORMAT:
            raise FormatError(
                "a checkpoint of another version",
                path=path,
                expected=FORMAT,
                found=ascii(header["format"])[:64],
                remedy=OTHER_VERSION,
            )
        return _unpack(header["tree"], tensors), header["facts"]
    except (DecodeError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise _damaged(path) from error


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Compute the SHA-256 of names, types, shapes and values: equal for equal weights."""
    return _digest("", {name: tensor.detach().cpu() for name, tensor in state.items()})


def _damaged(path: Path) -> DamagedError:
    return DamagedError(
        "the checkpoint is damaged", path=path, remedy="train again in another folder: --out (out=)"
    )


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Convert a tree to JSON; its tensors are put into `tensors` under their paths in the tree."""
    if isinstance(value, Tensor):
        # Kernels keep their layout: the same values in another order may add up to other bits.
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
