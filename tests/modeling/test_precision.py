"""Test that the precision is the requested one, or else the fastest of the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.errors import InputError
from modeling.networks.compute import autocast, choose_precision

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_bf16": True, "amx_bf16": True},
            "bfloat16",
        ),
        (
            {"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_bf16": True, "amx_bf16": False},
            "float32",
        ),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_a_cpu_uses_bfloat16_if_it_has_fast_units_for_it(
    processor: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert choose_precision("auto", CPU) == expected


def test_the_names_of_processor_features_are_those_of_torch() -> None:
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "vendor_id" in facts:  # an x86
        capabilities = torch.cpu.get_capabilities()
        assert {"amx_bf16", "avx512_bf16"} <= capabilities.keys()
        assert capabilities["cpu_name"].startswith("AMD") == ("AuthenticAMD" in facts)


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_networks_compiled_for_a_cpu_use_float32_even_if_bfloat16_is_fast(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert choose_precision(asked, CPU, compiled=True) == "float32"
    with pytest.raises(InputError, match="compile='none'"):
        choose_precision("bfloat16", CPU, compiled=True)


def test_networks_compiled_for_a_gpu_use_its_fast_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for asked in ("auto", "bfloat16"):
        assert choose_precision(asked, torch.device("cuda"), compiled=True) == "bfloat16"


@pytest.mark.parametrize(("units", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_uses_bfloat16_if_it_has_units_for_it(
    units: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: units or including_emulation
    )
    assert choose_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_the_requested_precision_is_used(asked: str) -> None:
    assert choose_precision(asked, CPU) == asked
    with autocast(CPU, asked):
        assert (torch.eye(2) @ torch.eye(2)).dtype == getattr(torch, asked)
