"""Batches of a split for a training loop of one's own; it stops and goes on at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from modeling.data.columns import Array
from modeling.data.order import Order
from modeling.errors import InputError

if TYPE_CHECKING:
    from modeling.data.dataset import Split


class Batches:
    """The batches of a split, epoch after epoch: each loop over it is one epoch.

    A batch is a dict of arrays (n, *sample_shape), new memory, or of what `convert` makes of them,
    such as tensors by `torch.from_numpy`. Samples that a transform makes are stacked where all are
    dicts of arrays or numbers of one shape; of others, the batch is a list. With `shuffle` the
    order follows from the seed and the epoch alone.

    A loop that was left early is followed by the next epoch. `state_dict` says where a loop is, the
    batch at hand counted as done; after `load_state_dict` the next loop gives the batches that the
    interrupted one would have given.

    >>> import modeling
    >>> split = modeling.open_dataset("data/photos")["circles"]["train"]
    >>> batches = split.loader(16, seed=3)
    >>> first = next(iter(batches))
    >>> first["image"].shape, batches.state_dict()["step"]
    ((16, 28, 28), 1)
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
        convert: Callable[[Array], Any] | None = None,
    ) -> None:
        try:
            self._order = Order(len(split), seed, index(batch), rank, ranks)
        except (TypeError, ValueError) as error:
            raise InputError(f"no such batches: {error}") from error
        self.split, self.convert = split, convert
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch, self.step = 0, 0
        self._continues = False  # within an epoch, since a state was loaded

    def __len__(self) -> int:
        """Count the batches of a whole epoch."""
        order = self._order
        return order.count // order.batch_size if self.drop_last else order.steps

    def __iter__(self) -> Iterator[Any]:
        if self.step >= len(self) or (self.step and not self._continues):
            self.epoch, self.step = self.epoch + 1, 0
        self._continues = False
        epoch, first = self.epoch, self.step
        for step in range(first, len(self)):
            batch = self._read(self._chosen(epoch, step))
            self.epoch, self.step = epoch, step + 1
            yield batch
        self.epoch, self.step = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Say what comes next: the epoch and the step, and the order that they are of."""
        return {"epoch": self.epoch, "step": self.step, **self._facts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises InputError if it is of another order."""
        expected, found = self._facts(), {name: state.get(name) for name in self._facts()}
        if found != expected:
            name = next(name for name, value in expected.items() if found[name] != value)
            raise InputError(
                f"the state is of other batches: {name}",
                expected=expected[name],
                found=found[name],
                remedy="make the batches with the arguments of the first run",
            )
        epoch, step = state.get("epoch"), state.get("step")
        is_place = type(epoch) is type(step) is int and epoch >= 0 and 0 <= step <= len(self)
        if epoch is None or step is None or not is_place:
            raise InputError(
                "the state is none of these batches",
                expected=f"an epoch, and a step from 0 to {len(self)}",
                found=f"{epoch!r} and {step!r}",
            )
        self.epoch, self.step, self._continues = epoch, step, True

    def _facts(self) -> dict[str, Any]:
        order = self._order
        return {
            "samples": order.count,
            "batch": order.batch_size,
            "seed": order.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "ranks": order.ranks,
        }

    def _chosen(self, epoch: int, step: int) -> Any:
        order = self._order
        if self.shuffle:
            return order.batch(epoch, step)
        size = order.size(step)
        bounds = (size * share // order.ranks for share in (order.rank, order.rank + 1))
        first, last = (step * order.batch_size + bound for bound in bounds)
        return np.arange(first, last)

    def _read(self, indices: Any) -> Any:
        if self.split.transform is None:
            batch: Any = self.split.take(indices)
        elif len(indices):
            batch = _stacked(self.split.__getitems__(indices))
        else:  # of more ranks than samples
            batch = _stacked(self.split.__getitems__([0]))
            is_dict = isinstance(batch, dict)
            batch = {name: one[:0] for name, one in batch.items()} if is_dict else []
        if self.convert is None or not isinstance(batch, dict):
            return batch
        return {name: self.convert(values) for name, values in batch.items()}


def _stacked(samples: list[Any]) -> Any:
    """Stack samples that are dicts of arrays, or numbers, of one shape; give others as they are."""
    first = samples[0]
    if not all(isinstance(one, dict) and one.keys() == first.keys() for one in samples):
        return samples
    stacked = {}
    for name in first:
        values = [sample[name] for sample in samples]
        is_plain = all(isinstance(value, np.ndarray | np.generic | int | float) for value in values)
        if not is_plain or len({np.shape(value) for value in values}) > 1:
            return samples
        stacked[name] = np.stack(values)
    return stacked
