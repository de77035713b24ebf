"""What convolutions and products are computed in: bfloat16 where the device has units for it, float32 elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_precision(asked: str, device: torch.device) -> str:
    """`asked` itself, or for "auto" the faster of "float32" and "bfloat16" on `device`.

    On a CPU that is bfloat16 with the tiles of AMX only: without, these networks take 1.2 times (AVX-512 with its
    bfloat16 instructions) to 3 times (without those) as long in it as in float32.
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    return "bfloat16" if fast else "float32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in `precision`, one of those that `choose_precision` gives, where an operation bears it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=DTYPES[precision] is torch.bfloat16)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32 are computed in float32, not in TF32, whatever is set outside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
