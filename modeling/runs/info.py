"""What a run can show for itself: what was trained on what, where, by which versions, how far, and
how well on val.
"""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.errors import FormatError

_BITS = (
    "versions",
    "device",
    "precision",
    "threads",
    "ranks",
    "git",
)  # on these, and on the machine, the bits of the weights depend


_KINDS: dict[str, Any] = {
    "task": str,
    "config": dict,
    "dataset": dict,
    "environment": dict,
    "parameters": int,
    "step": int,
    "epochs": int | float,
    "seconds": dict,
    "history": list,
    "best": dict | None,
    "resumed": list,
    "weights": str,
}


@dataclass(frozen=True)
class RunInfo:
    """The facts of a run at step `step` of `config.steps`; JSON throughout.

    `history` has an entry for each evaluation on val, `best` is the one that the best weights come
    from, `weights` the digest of the averaged weights at `step`. `seconds` add up over all parts of
    an interrupted run; `resumed` has the step of each resumption, whether the environment was the
    same, as equal bits need, and which it was before.
    """

    task: str
    config: dict[str, Any]
    dataset: dict[str, Any]
    environment: dict[str, Any]
    parameters: int
    step: int
    epochs: float
    seconds: dict[str, float]
    history: list[dict[str, Any]]
    best: dict[str, Any] | None
    resumed: list[dict[str, Any]]
    weights: str

    @property
    def finished(self) -> bool:
        return self.step >= int(self.config["steps"])

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {**vars(self), "seed": self.config["seed"], "finished": self.finished}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunInfo:
        """The evidence that `to_json` wrote. Raises FormatError where another version wrote it, or
        something else.
        """
        try:
            found = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            known = (
                all(isinstance(getattr(found, name), kind) for name, kind in _KINDS.items())
                and found._is_known()
            )
        except (KeyError, TypeError):
            known = False
        if not known:
            raise FormatError(
                "the evidence of a run is none that this program knows",
                remedy="it was written by another version of this program; train anew in another folder: --out",
            )
        return found

    def _is_known(self) -> bool:
        """Whether the facts that are used are there, of the kinds that they are of."""
        data, where, steps = self.dataset, self.environment, self.config["steps"]
        pairs = (data["tile"], data["grid"])
        return (
            all(
                isinstance(text, str)
                for text in (data["digest"], data["source"], *data["classes"], where["precision"])
            )
            and all(
                len(pair) == 2 and all(type(side) is int and side > 0 for side in pair)
                for pair in pairs
            )
            and all(name in where for name in _BITS)
            and type(steps) is int
        )

    def settings(self) -> Config:
        """The configuration as a record. Raises InputError where it was written by another
        version.
        """
        return Config.from_json(self.config)


def describe(dataset: Dataset) -> dict[str, Any]:
    """What a dataset is, as far as a model must know it: digest, source, classes, tile and grid."""
    return {
        "digest": dataset.digest,
        "source": dataset.source,
        "classes": list(dataset.classes),
        "tile": list(dataset.tile),
        "grid": list(dataset.grid),
    }


def environment(device: torch.device, precision: str, ranks: int = 1) -> dict[str, Any]:
    """Versions, device, what is computed in, threads, ranks, and the git commit of this code, if it
    is under git.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": str(torch.__version__),
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "system": platform.system(),
        "precision": precision,
        "threads": torch.get_num_threads(),
        "ranks": ranks,
        "git": _commit(Path(__file__).parents[1]),
    }


def same_bits(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two environments agree in all that the bits of the weights depend on."""
    return all(before[name] == now[name] for name in _BITS)


def _processor() -> str:
    """The processor's own name where the system tells it, else the architecture."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8", errors="replace").splitlines() if facts.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _commit(package: Path) -> dict[str, Any] | None:
    """The commit that holds the package, and whether its files differ; None where git does not keep
    them.
    """

    def git(*arguments: str) -> str:
        ran = subprocess.run(
            ["git", "-C", package, *arguments], capture_output=True, text=True, check=True
        )
        return ran.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--", ".")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
