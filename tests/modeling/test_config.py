"""Test that configurations survive JSON, and that errors name every problem."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolation import ROOT

from modeling.config import PRESETS, SETTINGS, Config, preset
from modeling.errors import InputError

FIELDS = {field.name for field in dataclasses.fields(Config)}
EVERY = [(task, name) for task, presets in PRESETS.items() for name in presets]


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_every_preset_is_valid_and_survives_json(task: str, name: str) -> None:
    config = preset(task, name, seed=3)
    assert (config.task, config.preset, config.seed) == (task, name, 3)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_every_task_has_the_three_presets() -> None:
    assert set(PRESETS) == {"foreground", "circles", "mosaics"}
    assert all(set(presets) == {"cpu", "gpu", "record"} for presets in PRESETS.values())


@given(
    st.floats(0, 100),
    st.integers(1, 10**6),
    st.lists(st.integers(1, 999), min_size=1, max_size=5),
    st.booleans(),
)
def test_settings_are_read_from_their_texts(
    rate: float, steps: int, channels: list[int], last: bool
) -> None:
    texts = [
        f"learning_rate={rate!r}",
        f"steps={steps}",
        f"channels={','.join(map(str, channels))}",
        f"channels_last={str(last).lower()}",
        "precision=bfloat16",
    ]
    config = preset("mosaics", "cpu").override(texts)
    assert (config.learning_rate, config.steps, config.channels_last) == (rate, steps, last)
    assert config.channels == tuple(channels)
    assert config.precision == "bfloat16"
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "=VALUE is missing .expected steps=VALUE, found 'steps'"),
        ("stpes", r"found 'stpes'\); did you mean steps\?"),
        ("stpes=3", "found 'stpes=3'"),
        ("task=mosaics", "no such setting"),
        ("preset=gpu", "no such setting"),
        ("steps=many", "steps cannot be 'many' .expected an integer"),
        ("steps=1.5", "steps cannot be"),
        ("learning_rate=fast", "expected a number"),
        ("channels_last=maybe", "expected true or false"),
        ("channels=", "channels cannot be"),
        ("steps=0", "steps: expected an integer from 1 to 1,048,575, found 0"),
        ("ema=1", "ema: expected a number from 0 to below 1, found 1.0"),
        ("learning_rate=nan", "learning_rate: expected a number, found nan"),
        ("learning_rate=-1", "expected a number, 0 or more, found -1.0"),
        ("precision=float16", "expected one of auto, float32, bfloat16"),
        ("compile=maybe", "expected one of none, default"),
        ("channels=8,0", "expected 1 to 8 numbers above 0"),
    ],
)
def test_an_impossible_setting_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preset("foreground", "cpu").override([assignment])


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(
        InputError, match=r"steps: .*found 0; batch: .*found -1; log_every: .*found 0"
    ):
        preset("foreground", "cpu").override(["steps=0", "log_every=0", "batch=-1"])


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 1.0},
        {"steps": True},
        {"precision": None},
        {"ema": math.nan},
        {"clip": 10**400},
        {"steps": 10**5000},
        {"batch": 10**5000},
        {"channels": (10**5000,)},
    ],
)
def test_json_of_another_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        Config.from_json({**preset("circles", "cpu").to_json(), **change})


def test_a_missing_or_an_unknown_field_is_refused() -> None:
    values = preset("circles", "cpu").to_json()
    with pytest.raises(InputError, match="found also colour"):
        Config.from_json({**values, "colour": 1})
    del values["steps"]
    with pytest.raises(InputError, match="expected also steps"):
        Config.from_json(values)


def test_an_unknown_task_or_preset_is_refused() -> None:
    with pytest.raises(InputError, match="one of foreground, circles, mosaics"):
        preset("squares", "cpu")
    with pytest.raises(InputError, match="one of cpu, gpu, record"):
        preset("circles", "tpu")


def test_differences_name_both_values() -> None:
    config = preset("circles", "cpu")
    other = config.override([f"steps={config.steps + 1}", "ema=0.25"])
    assert config.differences(config) == []
    assert config.differences(other) == [
        f"steps: {config.steps}, not {config.steps + 1}",
        f"ema: {config.ema}, not 0.25",
    ]


def test_the_page_lists_every_setting_with_its_valid_values() -> None:
    page = (ROOT / "docs/models.md").read_text("utf-8")
    section = page.partition("## Settings\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE))
    assert tuple(rows) == SETTINGS
    for key, values in rows.items():
        numbers = [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*", values)]
        if "`" in values and "as `" not in values:
            choices = re.findall("`([^`]*)`", values)
            assert all(accepts(f"{key}={choice}") for choice in choices)
            assert not any(accepts(f"{key}={choice}") for choice in ("other", choices[0][:-1]))
        elif key != "channels":
            least, most = numbers[0], numbers[1] if len(numbers) == 2 else 10**9
            assert accepts(f"{key}={least}")
            assert not accepts(f"{key}={least - 1}")
            assert accepts(f"{key}={most}") != ("below" in values)
            assert accepts(f"{key}={most + 1}") == values.endswith("or more")
            assert len(numbers) == 2 or values == f"{least} or more"


def accepts(assignment: str) -> bool:
    """Try a setting of a configuration."""
    try:
        preset("mosaics", "cpu").override([assignment])
    except InputError:
        return False
    return True
