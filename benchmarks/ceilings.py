"""Measure the limits of a machine: matrix products and memory copies, on a GPU or a CPU.

Each is the median over repeats, after some that do not count. A GPU is timed by its own events, so
what the host takes to ask for the work is not in the figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from result_files import spread

from modeling.networks.compute import exact_products

# of square matrices; the fastest is the ceiling
SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes: far more than any cache holds
REPEATS = 10
_UNCOUNTED = 3  # repeats, in which memory is touched and libraries choose their kernels


def measure(device: torch.device) -> dict[str, Any]:
    """Measure operations a second of `device` in each precision, and bytes a second of a copy.

    Products in float32 are exact ones, as the optimiser takes them; a network in float32 may take
    TF32 on a GPU.
    """
    with exact_products():
        rates = {precision: _products(device, precision) for precision in ("float32", "bfloat16")}
    return {"operations_per_s": rates, "bytes_per_s": _copies(device), "repeats": REPEATS}


def _products(device: torch.device, precision: str) -> dict[str, Any]:
    """Time matrix products, with two operations a multiply-add, by the side of the matrices."""
    dtype = getattr(torch, precision)
    rates = {}
    for side in SIDES[device.type]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        product = torch.empty_like(a)
        spent = _seconds(partial(torch.mm, a, b, out=product), device)
        rates[side] = spread([2 * side**3 / each for each in spent])
    best = max(rates, key=lambda side: rates[side]["median"])
    return {
        "median": rates[best]["median"],
        "by_side": {str(side): rate for side, rate in rates.items()},
    }


def _copies(device: torch.device) -> dict[str, Any]:
    """Time copies of memory; bytes read and bytes written both count."""
    count = COPIED[device.type]
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    rate = spread([2 * count / each for each in _seconds(lambda: target.copy_(source), device)])
    return {**rate, "copied": count}


def _seconds(call: Callable[[], object], device: torch.device) -> list[float]:
    """Return the seconds of each counted call, measured on the device itself."""
    for _ in range(_UNCOUNTED):
        call()
    if device.type != "cuda":
        return [_clock(call) for _ in range(REPEATS)]
    pairs = []
    for _ in range(REPEATS):
        pair = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
        pair[0].record()
        call()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1000 for before, after in pairs]


def _clock(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
