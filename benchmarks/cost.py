"""Count the operations and bytes of a step, for the roofline of a machine.

Operations are those of convolutions and matrix products, two for each multiply-add. Bytes are the
tensors that each operation reads and writes, as if nothing stayed in a cache in between: an upper
limit.
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
    """Operations and bytes of one call."""

    operations: int
    bytes: int


def measure(call: Callable[[], object]) -> Cost:
    """Run `call` once, and count its cost by the shapes of its tensors."""
    traffic = _Traffic()
    with FlopCounterMode(display=False) as flops, traffic:
        call()
    return Cost(flops.get_total_flops(), traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the inputs and outputs of each operation; views move none."""

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
            # operations on lists of tensors in place return nothing, but write all of them
            written = found if func._schema.returns else _changed(func, args)
            tensors = [
                leaf for leaf in tree_leaves((args, kwargs, written)) if isinstance(leaf, Tensor)
            ]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return found


def _changed(func: Any, args: tuple[Any, ...]) -> list[Any]:
    """Return the arguments that an operation declares to change."""
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
    """Count forward, loss and backward for a batch, uint8 (B, H, W); divide by B for a sample."""

    def step() -> None:
        with torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
            outputs = model(image)
        loss(outputs).backward()

    return measure(step)
