"""What a step costs: its operations, and the bytes that pass between its operations; for the
roofline of a machine.

Operations are those of convolutions and matrix products, two for each multiplication with its
addition. Bytes are the tensors that each operation reads and writes, as if nothing stayed in a
cache between two operations: an upper limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Operations and bytes, of one call."""

    operations: int
    bytes: int


def measure(call: Callable[[], object]) -> Cost:
    """What `call` costs, by the shapes of the tensors in it; it is run once."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as flops, traffic:
        call()
    return Cost(flops.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that go into and come out of each operation, but for views,
    which move none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            # What changes lists of tensors in place gives nothing back, and has written them all
            # the same.
            written = found if func._schema.returns else _changed(func, args)
            tensors = [
                leaf for leaf in tree_leaves((args, kwargs, written)) if isinstance(leaf, Tensor)
            ]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


def _changed(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """The arguments that an operation says it changes."""
    infos = [argument.alias_info for argument in func._schema.arguments]
    return [
        value
        for value, info in zip(args, infos, strict=False)
        if info is not None and info.is_write
    ]


def step_cost(
    model: torch.nn.Module,
    loss: Callable[[dict[str, Tensor]], Tensor],
    image: Tensor,
    precision: torch.dtype,
) -> Cost:
    """The cost of forward, loss and backward for a batch: uint8 (B, H, W); divide by B for that of
    a sample.
    """

    def step() -> None:
        with torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
            outputs = model(image)
        loss(outputs).backward()

    return measure(step)
