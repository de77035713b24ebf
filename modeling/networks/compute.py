"""Set how a device computes: precision, exact and deterministic products, compiled networks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_NO_COMPILE = (
    "leave out --set compile= (compile=), or install a C++ compiler, such as g++, with the headers"
    " of Python"
)


def choose_precision(asked: str, device: torch.device, *, compiled: bool = False) -> str:
    """Return `asked`, or for "auto" the faster of "float32" and "bfloat16" on `device`.

    On a CPU, bfloat16 is the faster one if it has AMX tiles, or AVX-512 bfloat16 instructions on
    an AMD processor: these multiply twice as many numbers at once, and our networks take half the
    time. On an Intel processor with the instructions but without tiles they take 1.2 times as long
    as in float32, and on any processor without either 3 times as long.

    Networks compiled for a CPU compute in float32: torch's compiled bfloat16 code fails there, or
    returns gradients that are not numbers. Raises InputError if bfloat16 is asked for nonetheless.
    """
    if compiled and device.type == "cpu":
        if asked == "bfloat16":
            raise InputError(
                "torch compiles no network right for a CPU that computes in bfloat16",
                expected="float32, or a network that is not compiled",
                found="precision=bfloat16 with compile",
                remedy="leave out --set precision= (precision=): auto takes float32 here; or"
                " --set compile=none (compile='none')",
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
    """Compute in `precision`, "float32" or "bfloat16", where an operation supports it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=DTYPES[precision] is torch.bfloat16)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Compute float32 products and convolutions in float32, never in TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextlib.contextmanager
def training_settings(device: torch.device) -> Iterator[None]:
    """Set torch up for training on `device`, and restore the settings afterwards.

    On a CPU, allow only deterministic operations, and flush denormal numbers to 0: processors
    compute with them in microcode, and gradients of dead units decay into them, so that the last
    steps of the circles task took ten times as long as the first. On a GPU, let cuDNN choose the
    fastest convolutions. On both, products are exact, so that counts of pixels stay whole.
    """
    settings: Any = torch.utils.deterministic
    deterministic = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = settings.fill_uninitialized_memory
    benchmark, flushed = torch.backends.cudnn.benchmark, flushes_denormals()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False  # a debugging aid that costs time at every step
        torch.set_flush_denormal(True)
    try:
        with exact_products():
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        settings.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = benchmark
        torch.set_flush_denormal(flushed)


def flushes_denormals() -> bool:
    """Return whether this thread treats numbers below 2^-126 as 0."""
    return not bool(torch.full((1,), 2.0**-130) * 1)


def compile_network(network: nn.Module, mode: str) -> Any:
    """Return `network` compiled by torch at its first call, or itself if `mode` is "none"."""
    return network if mode == "none" else torch.compile(network, mode=mode)


def require_compiler(mode: str, device: torch.device) -> None:
    """Raise InputError if networks are to be compiled for a CPU and no C++ compiler is found."""
    if mode == "none" or device.type != "cpu":
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise InputError(
            "there is no C++ compiler to compile a network with", remedy=_NO_COMPILE
        ) from error


@contextlib.contextmanager
def compiling(mode: str) -> Iterator[None]:
    """Turn torch's compiler errors in the body into InputError."""
    if mode == "none":
        yield
        return
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import exc

    try:
        yield
    except (TorchDynamoException, exc.CppCompileError, exc.InvalidCxxCompiler) as error:
        raise InputError(
            f"torch cannot compile the network: {_reason(error)}", remedy=_NO_COMPILE
        ) from error


def _reason(error: BaseException) -> str:
    """Return the line of a compiler's message that names an error, or else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), (lines or [type(error).__name__])[0])
