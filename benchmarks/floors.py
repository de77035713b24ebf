"""Compute the least time of a training step from its operations and bytes, part by part.

Bytes are counted as if nothing stayed in a cache between two operations. So fused operations, or a
cache that holds a batch, can be faster than a floor by bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from cost import Cost, measure, step_cost
from steps import Spans

from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.data.order import Order
from modeling.networks.compute import choose_precision
from modeling.runs.info import describe
from modeling.tasks import TASKS, Batch
from modeling.training.state import State

# Parts of a step that are counted together.
GROUPS = {
    "batch": ("wait",),
    "augment": ("augment",),
    "network": ("forward", "loss", "backward"),
    "optimiser": ("optimiser", "rest"),
}


@dataclass(frozen=True)
class Counted:
    """The cost of a part of a step, and the precision of its products."""

    cost: Cost
    precision: str


def count(dataset: Dataset, config: Config, device: torch.device) -> dict[str, Counted]:
    """Count the costs of a step by group; each part runs once, on the first batch of training."""
    task = TASKS[config.task]
    batch = first_batch(dataset, config, device)
    state = State(task, config, describe(dataset), device)
    precision = choose_precision(config.precision, device)
    changed: dict[str, torch.Tensor] = {}
    generator = torch.Generator(device).manual_seed(config.seed)
    augment = measure(lambda: changed.update(task.augment(batch, generator, config)))
    network = step_cost(
        state.model,
        lambda outputs: task.loss(outputs, changed, config)[0],
        changed["image"],
        getattr(torch, precision),
    )
    rates = state.optimizer.rates(0).to(device)

    def move() -> None:
        state.advance(rates)
        state.follow(0)

    read_and_written = 2 * sum(tensor.nbytes for tensor in batch.values())
    return {
        "batch": Counted(Cost(0, read_and_written), precision),
        "augment": Counted(augment, "float32"),
        "network": Counted(network, precision),
        "optimiser": Counted(measure(move), "float32"),
    }


def count_augmentation_without_sync(dataset: Dataset, config: Config) -> Cost:
    """Count augmentation as a GPU does it, without synchronising; nothing is computed."""
    batch = first_batch(dataset, config, torch.device("meta"))
    return measure(lambda: TASKS[config.task].augment(batch, torch.Generator(), config))


def first_batch(dataset: Dataset, config: Config, device: torch.device) -> Batch:
    """Load the first batch of training onto `device`."""
    task = TASKS[config.task]
    split = dataset.split(task.name, "train").select(*task.columns)
    taken = split.take(Order(len(split), config.seed, config.batch).batch(0, 0))
    return {name: torch.from_numpy(values).to(device) for name, values in taken.items()}


def find_floors(costs: dict[str, Counted], ceilings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return seconds of each group and of the "step": by operations, by bytes, and the larger."""
    floors = {}
    for name, counted in costs.items():
        rate = ceilings["operations_per_s"][counted.precision]["median"]
        floors[name] = {
            "operations": counted.cost.operations,
            "bytes": counted.cost.bytes,
            "operations_s": counted.cost.operations / rate,
            "bytes_s": counted.cost.bytes / ceilings["bytes_per_s"]["median"],
        }
    floors["step"] = {
        kind: sum(floor[kind] for floor in floors.values()) for kind in floors["network"]
    }
    for floor in floors.values():
        floor["floor_s"] = max(floor["operations_s"], floor["bytes_s"])
    return floors


def achieved(floors: dict[str, dict[str, float]], medians: Spans) -> dict[str, float]:
    """Return floor / time of the step and of each group that was timed and has a cost.

    `medians` holds seconds of parts and of "step".
    """
    timed = {name: parts for name, parts in GROUPS.items() if set(parts) <= set(medians)}
    spent = {name: sum(medians[part] for part in parts) for name, parts in timed.items()} | {
        "step": medians["step"]
    }
    return {
        name: round(floors[name]["floor_s"] / spent[name], 4)
        for name in spent
        if floors[name]["floor_s"]
    }
