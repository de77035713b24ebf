"""What convolutions and products are computed in: bfloat16 where the device has units for it,
float32 elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from modeling.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_precision(asked: str, device: torch.device, *, compiled: bool = False) -> str:
    """`asked` itself, or for "auto" the faster of "float32" and "bfloat16" on `device`.

    A network that is compiled for a CPU is one of float32: what torch compiles there for bfloat16
    stops within its own code, or gives gradients that are no numbers. Raises InputError where
    bfloat16 is asked for all the same.

    On a CPU that is bfloat16 with the tiles of AMX, or with AVX-512's bfloat16 instructions on an
    AMD: there they multiply twice as many numbers as those of float32 do, and these networks take
    half the time. An Intel without tiles takes 1.2 times as long with such instructions, and any
    processor 3 times as long without.
    """
    if compiled and device.type == "cpu":
        if asked == "bfloat16":
            raise InputError(
                "torch compiles no network right for a CPU that computes in bfloat16",
                expected="float32, or a network that is not compiled",
                found="precision=bfloat16 with compile",
                remedy="leave --set precision= out (auto takes float32 here), or --set compile=none",
            )
        return "float32"
    if asked != "auto":
        return asked
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        processor = torch.cpu.get_capabilities()
        wide = processor.get("avx512_bf16") and str(processor.get("cpu_name")).startswith("AMD")
        fast = bool(processor.get("amx_bf16") or wide)
    return "bfloat16" if fast else "float32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in `precision`, one of those that `choose_precision` gives, where an operation bears
    it.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=DTYPES[precision] is torch.bfloat16)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Products of float32, those of convolutions too, are computed in float32, not in TF32,
    whatever is set outside.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
