"""What a training run is made of: one frozen record, its spelling as JSON, and the presets in one
table.

Two runs of equal configuration on equal datasets are the same run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modeling.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16")
# those that do not record by themselves
COMPILE_MODES = ("none", "default", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Config:
    """A training run, but for its data and the place it runs at. Raises InputError that names every
    bad value.
    """

    task: str
    preset: str
    seed: int = 0

    # Model: channels at each scale, fine to coarse; blocks a scale; what only some tasks have.
    channels: tuple[int, ...] = (16, 32, 64)
    blocks: int = 1
    context: bool = True  # foreground and circles: global context; mosaics: local context

    # Steps of one batch each; the order runs on through as many epochs as they take.
    steps: int = 1000
    batch: int = 128
    learning_rate: float = 3e-3  # of AdamW
    muon_rate: float = 2e-2  # of Muon, for matrices and kernels; 0: AdamW for these too
    weight_decay: float = 1e-2
    warmup: int = 50  # steps
    clip: float = 0.0  # largest norm of the gradient; 0: any
    ema: float = 0.998  # decay of the averaged weights, which are the ones that are scored
    augment: float = 1.0  # strength, from 0 for none
    # share of a class label that is spread over all classes; not of the foreground's
    smoothing: float = 0.0

    # How it is computed.
    precision: str = "auto"  # bfloat16 where the device is faster in it, else float32
    channels_last: bool = True
    compile: str = "none"

    # How it is watched.
    evaluate_every: int = 250  # steps
    val_samples: int = 4096  # the first so many of val at each evaluation; 0: all
    log_every: int = 25  # steps

    def __post_init__(self) -> None:
        problems = [
            problem for name, value in vars(self).items() for problem in _problems(name, value)
        ]
        if problems:
            raise InputError(
                f"the configuration cannot be used: {'; '.join(problems)}",
                remedy="mend the values given with --set",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values in the order of the fields; `from_json` reads them back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Config:
        """The configuration that `to_json` wrote. Raises InputError for missing, unknown or bad
        values.
        """
        names = set(_KINDS)
        if set(values) != names:
            raise InputError(
                "these are not the fields of a configuration",
                expected=f"also {', '.join(sorted(names - set(values)))}"
                if names - set(values)
                else None,
                found=f"also {', '.join(sorted(set(values) - names))}"
                if set(values) - names
                else None,
                remedy="they were written by another version of this program; train anew in another folder: --out",
            )
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    def override(self, assignments: Iterable[str]) -> Config:
        """The same configuration but for each `field=value`. Raises InputError for what is no such
        thing.
        """
        changes: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals or name not in SETTINGS:
                raise unknown_setting(name, repr(assignment))
            changes[name] = _parse(name, text)
        return dataclasses.replace(self, **changes)

    def differences(self, other: Config) -> list[str]:
        """The fields in which `other` differs, as `name: this value, not that`."""
        pairs = ((name, value, getattr(other, name)) for name, value in vars(self).items())
        return [
            f"{name}: {mine!r}, not {theirs!r}" for name, mine, theirs in pairs if mine != theirs
        ]


_KINDS: dict[str, str] = {field.name: str(field.type) for field in dataclasses.fields(Config)}
SETTINGS = tuple(name for name in _KINDS if name not in ("task", "preset"))  # the keys of --set
_LEAST = {
    "seed": 0,
    "blocks": 1,
    "steps": 1,
    "batch": 1,
    "learning_rate": 0,
    "muon_rate": 0,
    "weight_decay": 0,
    "warmup": 0,
    "clip": 0,
    "ema": 0,
    "augment": 0,
    "smoothing": 0,
    "evaluate_every": 1,
    "val_samples": 0,
    "log_every": 1,
}
_BELOW = {"ema": 1, "smoothing": 1, "seed": 2**63, "steps": 2**20, "blocks": 2**6}
_SCALES = 8  # at most: each halves the image, which is padded to a multiple of 2 for each
_CHOICES = {"precision": PRECISIONS, "compile": COMPILE_MODES}


def _problems(name: str, value: Any) -> list[str]:
    """What is wrong with the value of one field: nothing, or one sentence."""
    if not _is_kind(value, _KINDS[name]):
        return [f"{name} is {value!r}, expected {_KINDS[name]}"]
    if name in _CHOICES and value not in _CHOICES[name]:
        return [f"{name} is {value!r}, expected one of {', '.join(_CHOICES[name])}"]
    if name in _LEAST and not value >= _LEAST[name]:
        return [f"{name} is {value}, expected {_LEAST[name]} or more"]
    if name in _BELOW and not value < _BELOW[name]:
        return [f"{name} is {value}, expected less than {_BELOW[name]}"]
    if name == "channels" and not (0 < len(value) <= _SCALES and min(value) > 0):
        return [f"channels is {value}, expected 1 to {_SCALES} numbers above 0, one for each scale"]
    return []


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "tuple[int, ...]":
        return isinstance(value, tuple) and all(_is_kind(item, "int") for item in value)
    if kind == "float":
        return type(value) in (int, float) and math.isfinite(value)
    return type(value).__name__ == kind


def unknown_setting(name: str, found: str | None = None) -> InputError:
    """Make the error for a setting that does not exist, with the most similar one as a remedy."""
    import difflib  # needed only after a mistake

    close = difflib.get_close_matches(name.lower(), SETTINGS, 1)
    return InputError(
        "no such setting",
        expected=f"field=value, fields: {', '.join(SETTINGS)}",
        found=found or repr(name),
        remedy=f"did you mean {close[0]}?" if close else None,
    )


def _parse(name: str, text: str) -> Any:
    """The value that `text` spells for the field of that name."""
    readers: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "str": str,
        "tuple[int, ...]": _parse_integers,
        "bool": _parse_bool,
    }
    try:
        return readers[_KINDS[name]](text)
    except (ValueError, KeyError):
        raise InputError(f"{name} cannot be {text!r}", expected=_KINDS[name]) from None


def _parse_integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parse_bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


# docs/models.md has the measurements behind these. On a GPU all batches of an epoch of MNIST are
# equally long, for the sake of the recorded step: 110 of digits, 512 of mosaics.
_SMOOTH: dict[str, Any] = {"smoothing": 0.1}  # where there are classes to tell
_STORED: dict[str, Any] = {"augment": 0.0}  # foreground: samples as stored
_DIGITS: dict[str, Any] = {"batch": 500}
_MOSAICS: dict[str, Any] = {"batch": 512}
_RECORD: dict[str, Any] = {"blocks": 2, "ema": 0.9995}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "foreground": {
        "cpu": {
            **_STORED,
            "channels": (16, 32, 64),
            "steps": 1000,
            "learning_rate": 3e-2,
            "ema": 0.995,
        },
        "gpu": {
            **_STORED,
            **_DIGITS,
            "channels": (16, 32, 64),
            "steps": 1000,
            "learning_rate": 3e-2,
            "ema": 0.99,
        },
        "record": {
            **_STORED,
            **_DIGITS,
            **_RECORD,
            "channels": (64, 128, 256),
            "steps": 8000,
            "learning_rate": 1e-2,
        },
    },
    "circles": {
        "cpu": {
            **_SMOOTH,
            "channels": (64, 128),
            "steps": 4300,
            "learning_rate": 1e-2,
            "ema": 0.995,
            "batch": 64,
            "evaluate_every": 1075,
            "warmup": 100,
        },
        "gpu": {**_DIGITS, **_SMOOTH, "channels": (64, 128), "steps": 1500, "ema": 0.995},
        "record": {**_DIGITS, **_RECORD, **_SMOOTH, "channels": (128, 256), "steps": 8000},
    },
    "mosaics": {
        "cpu": {
            **_SMOOTH,
            "channels": (32, 64, 128),
            "steps": 4300,
            "learning_rate": 1e-2,
            "batch": 32,
            "evaluate_every": 1075,
            "warmup": 100,
        },
        "gpu": {**_MOSAICS, **_SMOOTH, "channels": (32, 64, 128), "steps": 1200, "ema": 0.995},
        "record": {**_MOSAICS, **_RECORD, **_SMOOTH, "channels": (64, 128, 256), "steps": 10000},
    },
}


def preset(task: str, name: str, seed: int = 0) -> Config:
    """The configuration of that name for a task. Raises InputError where there is none."""
    if task not in PRESETS:
        raise InputError("no such task", expected=f"one of {', '.join(PRESETS)}", found=repr(task))
    if name not in PRESETS[task]:
        raise InputError(
            f"no such preset of {task}",
            expected=f"one of {', '.join(PRESETS[task])}",
            found=repr(name),
        )
    return Config(task=task, preset=name, seed=seed, **PRESETS[task][name])
