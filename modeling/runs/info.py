"""The facts of a run: task, configuration, dataset, environment, progress and scores on val.

They are written to `evidence.json`, into checkpoints and onto reports.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, TypedDict

import numpy as np
import torch

from modeling.data.manifest import Bands, ImageDtype, Side
from modeling.decoding import DecodeError, Rule, decode
from modeling.errors import OTHER_VERSION, FormatError

if TYPE_CHECKING:
    from modeling.data.dataset import Dataset

# The bits of the weights depend on these parts of the environment, and on the machine.
_BITS = ("versions", "device", "precision", "threads", "ranks", "git")

_Temperature = Annotated[float, Rule("a number above 0", lambda value: value > 0)]

_Pair = Annotated[list[Side], Rule("two sides", lambda sides: len(sides) == 2)]


class DatasetInfo(TypedDict):
    """The facts of a dataset that a network depends on; `tile` and `grid` are rows, columns.

    The later keys are absent where they are at their default: grey images of 8 bits, with their
    foreground above Otsu's threshold. `foreground` has the keys of the recipe's rule.
    """

    digest: str
    source: str
    classes: list[str]
    tile: _Pair
    grid: _Pair
    bands: NotRequired[Bands]
    dtype: NotRequired[ImageDtype]
    foreground: NotRequired[dict[str, Any]]
    mask_classes: NotRequired[list[str]]


class Environment(TypedDict):
    """The versions, the device and the code that a run was computed with."""

    versions: dict[str, str]
    device: str
    system: str
    precision: str
    threads: int
    ranks: int
    git: dict[str, Any] | None


@dataclass(frozen=True)
class RunInfo:
    """The facts of a run at step `step` of `config["steps"]`, all of them JSON.

    `history` has an entry for each evaluation on val, and `best` is the entry of the best weights.
    `weights` is the digest of the averaged weights at `step`. `seconds` add up over all parts of an
    interrupted run. `resumed` has an entry for each resumption: its step, the environment before
    it, and whether the environment stayed the same, as equal bits need. `temperatures` divide the
    logits of the best weights, by output: they are fitted on the samples of `best`, and are no part
    of the weights nor of their digest. Runs of versions that fitted none have None.
    """

    task: str
    config: Annotated[
        dict[str, Any],
        Rule("a configuration with a number of steps", lambda c: type(c.get("steps")) is int),
    ]
    dataset: DatasetInfo
    environment: Environment
    parameters: int
    step: int
    epochs: float
    seconds: dict[str, float]
    history: list[dict[str, Any]]
    best: dict[str, Any] | None
    resumed: list[dict[str, Any]]
    weights: str
    temperatures: dict[str, _Temperature] | None = None

    @property
    def finished(self) -> bool:
        """True once all steps are done."""
        return self.step >= int(self.config["steps"])

    def to_json(self) -> dict[str, Any]:
        """Give plain values, which `from_json` reads back."""
        return {**vars(self), "seed": self.config["seed"], "finished": self.finished}

    @classmethod
    def from_json(cls, values: object) -> RunInfo:
        """Read what `to_json` wrote. Raises FormatError for anything else."""
        try:
            return decode(cls, values)
        except DecodeError as error:
            raise FormatError(
                f"these are not the facts of a run that this program knows: {error}",
                remedy=OTHER_VERSION,
            ) from error


def describe(dataset: Dataset) -> DatasetInfo:
    """Give the facts of a dataset that a network depends on."""
    facts: DatasetInfo = {
        "digest": dataset.digest,
        "source": dataset.source,
        "classes": list(dataset.classes),
        "tile": list(dataset.tile),
        "grid": list(dataset.grid),
    }
    if dataset.mask_classes:
        facts["mask_classes"] = list(dataset.mask_classes)
    later: Any = dataset.kind.facts()
    facts.update(later)
    return facts


def environment(device: torch.device, precision: str, ranks: int = 1) -> Environment:
    """Describe what computes: versions, device, precision, threads, ranks, and the git commit."""
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
    """Compare all that the bits of the weights depend on in two environments."""
    return all(before[name] == now[name] for name in _BITS)


def _processor() -> str:
    """Name the processor as Linux does; give its architecture on other systems."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text("utf-8", errors="replace").splitlines() if facts.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _commit(package: Path) -> dict[str, Any] | None:
    """Name the commit of the package, and whether files differ from it; None if not under git."""

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
