"""The configuration of a training run: one frozen record, its JSON, and the presets in one table.

Two runs of equal configuration on equal datasets are the same run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from modeling.decoding import Rule, problems_of
from modeling.errors import OTHER_VERSION, InputError, did_you_mean

PRECISIONS = ("auto", "float32", "bfloat16")
COMPILE_MODES = ("none", "default", "max-autotune-no-cudagraphs")  # none that records CUDA graphs

_SCALES = 8  # at most: each halves the image, which is padded to a multiple of 2 for each


def _integer(least: int, most: int = 2**63 - 1) -> Rule:
    return Rule(f"an integer from {least} to {most:,}", lambda value: least <= value <= most)


def _one_of(choices: tuple[str, ...]) -> Rule:
    return Rule(f"one of {', '.join(choices)}", choices.__contains__)


_Count = Annotated[int, _integer(1)]
_Natural = Annotated[int, _integer(0)]
_Rate = Annotated[float, Rule("a number, 0 or more", lambda value: value >= 0)]
_Share = Annotated[float, Rule("a number from 0 to below 1", lambda value: 0 <= value < 1)]
_Channels = Annotated[
    tuple[int, ...],
    Rule(
        f"1 to {_SCALES} numbers above 0 and below 2^31, one for each scale",
        lambda value: 0 < len(value) <= _SCALES and 0 < min(value) <= max(value) < 1 << 31,
    ),
]


@dataclass(frozen=True)
class Config:
    """The settings of a training run, without its dataset, its folder and its device.

    Raises InputError, which names every bad value.

    >>> preset("circles", "cpu").override(["steps=100"]).steps
    100
    """

    task: str
    preset: str
    seed: _Natural = 0

    # Model: channels at each scale, fine to coarse; blocks a scale; what only some tasks have.
    channels: _Channels = (16, 32, 64)
    blocks: Annotated[int, _integer(1, 2**6 - 1)] = 1
    context: bool = True  # foreground and circles: global context; mosaics: local context

    # Steps of one batch each; the order runs on through as many epochs as they take.
    steps: Annotated[int, _integer(1, 2**20 - 1)] = 1000
    batch: _Count = 128
    learning_rate: _Rate = 3e-3  # of AdamW
    muon_rate: _Rate = 2e-2  # of Muon, for matrices and kernels; 0: AdamW for these too
    weight_decay: _Rate = 1e-2
    warmup: _Natural = 50  # steps
    clip: _Rate = 0.0  # largest norm of the gradient; 0: any
    ema: _Share = 0.998  # decay of the averaged weights, which are the ones that are scored
    augment: _Rate = 1.0  # strength, from 0 for none
    smoothing: _Share = 0.0  # of a class label, spread over all classes; not of the foreground's

    # Precision and speed.
    precision: Annotated[str, _one_of(PRECISIONS)] = "auto"  # bfloat16 where that is faster
    channels_last: bool = True
    compile: Annotated[str, _one_of(COMPILE_MODES)] = "none"

    # Evaluation and log.
    evaluate_every: _Count = 250  # steps
    val_samples: _Natural = 4096  # the first so many of val at each evaluation; 0: all
    log_every: _Count = 25  # steps

    def __post_init__(self) -> None:
        problems = problems_of(Config, vars(self))
        if problems:
            raise InputError(
                f"the configuration cannot be used: {'; '.join(problems)}",
                remedy="change these settings",
            )

    def to_json(self) -> dict[str, Any]:
        """Give plain values in the order of the fields, which `from_json` reads back."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Config:
        """Read what `to_json` wrote. Raises InputError for missing, unknown or bad values."""
        names = {field.name for field in dataclasses.fields(cls)}
        missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
        if missing or unknown:
            raise InputError(
                "these are not the fields of a configuration",
                expected=f"also {', '.join(missing)}" if missing else None,
                found=f"also {', '.join(unknown)}" if unknown else None,
                remedy=OTHER_VERSION,
            )
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    def override(self, assignments: Iterable[str]) -> Config:
        """Change fields by texts such as "steps=100". Raises InputError for any other text."""
        changes: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if name not in SETTINGS:
                raise unknown_setting(name, repr(assignment))
            if not equals:
                raise InputError(
                    "=VALUE is missing", expected=f"{name}=VALUE", found=repr(assignment)
                )
            changes[name] = _parse(name, text)
        return dataclasses.replace(self, **changes)

    def differences(self, other: Config) -> list[str]:
        """List the fields in which `other` differs, as `name: this value, not that`."""
        pairs = ((name, value, getattr(other, name)) for name, value in vars(self).items())
        return [
            f"{name}: {mine!r}, not {theirs!r}" for name, mine, theirs in pairs if mine != theirs
        ]


# The keys of --set.
SETTINGS = tuple(
    field.name for field in dataclasses.fields(Config) if field.name not in ("task", "preset")
)


def unknown_setting(name: str, found: str | None = None) -> InputError:
    """Make the error for a setting that does not exist, with the most similar one as a remedy."""
    return InputError(
        "no such setting",
        expected=f"field=value, fields: {', '.join(SETTINGS)}",
        found=found or repr(name),
        remedy=did_you_mean(name, SETTINGS),
    )


def _parse(name: str, text: str) -> Any:
    """Convert `text` to the type of the field of that name."""
    read, expected = _READERS[get_type_hints(Config)[name]]
    try:
        return read(text)
    except (ValueError, KeyError):
        raise InputError(f"{name} cannot be {text!r}", expected=expected) from None


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "an integer"),
    float: (float, "a number"),
    str: (str, "text"),
    bool: (lambda text: {"true": True, "false": False}[text.lower()], "true or false"),
    tuple[int, ...]: (
        lambda text: tuple(int(part) for part in text.split(",")),
        "integers, such as 16,32,64",
    ),
}


# docs/models.md has the measurements behind these. A recorded step needs batches of one length, so
# on a GPU the batch divides an epoch of MNIST: 110 batches of digits, 512 of mosaics.
_SMOOTH: dict[str, Any] = {"smoothing": 0.1}  # for tasks with classes
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
    """Give the configuration of that name for a task. Raises InputError if there is none."""
    if task not in PRESETS:
        raise InputError(
            "no such task",
            expected=f"one of {', '.join(PRESETS)}",
            found=repr(task),
            remedy=did_you_mean(task, PRESETS),
        )
    if name not in PRESETS[task]:
        raise InputError(
            f"no such preset of {task}",
            expected=f"one of {', '.join(PRESETS[task])}",
            found=repr(name),
        )
    return Config(task=task, preset=name, seed=seed, **PRESETS[task][name])
