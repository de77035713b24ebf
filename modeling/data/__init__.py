"""Read datasets in the format of `docs/format.md`, with NumPy alone.

>>> from modeling.data import Order, open_dataset
>>> order = Order(count=5, seed=0, batch=3)
>>> [order.batch(epoch=0, step=step).tolist() for step in range(order.steps)]
[[2, 0, 4], [3, 1]]
"""

from __future__ import annotations

from modeling.data.batches import Batches
from modeling.data.columns import Column
from modeling.data.dataset import Dataset, Split, open_dataset
from modeling.data.order import Order

__all__ = ["Batches", "Column", "Dataset", "Order", "Split", "open_dataset"]
