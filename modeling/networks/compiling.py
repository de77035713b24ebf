"""Networks as torch compiles them, and one word where it cannot."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modeling.errors import InputError

_REMEDY = (
    "leave --set compile= out, or install a C++ compiler, such as g++, with the headers of Python"
)


def compile_network(network: nn.Module, mode: str) -> Any:
    """Give the network as torch compiles it when it is first called, or itself where `mode` is
    none.
    """
    return network if mode == "none" else torch.compile(network, mode=mode)


def require_compiler(mode: str, device: torch.device) -> None:
    """Raise InputError where networks are to be compiled for a CPU and there is no compiler."""
    if mode == "none" or device.type != "cpu":
        return
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise InputError(
            "there is no C++ compiler to compile a network with", remedy=_REMEDY
        ) from error


@contextlib.contextmanager
def compiling(mode: str) -> Iterator[None]:
    """Raise InputError where torch cannot compile what the body calls."""
    if mode == "none":
        yield
        return
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor import exc

    try:
        yield
    except (TorchDynamoException, exc.CppCompileError, exc.InvalidCxxCompiler) as error:
        raise InputError(
            f"torch cannot compile the network: {_reason(error)}", remedy=_REMEDY
        ) from error


def _reason(error: BaseException) -> str:
    """Give the line of a compiler's words that names an error, or else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), (lines or [type(error).__name__])[0])
