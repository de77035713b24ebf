"""Train a network on mosaics that are derived while it trains: no dataset is written.

    python docs/examples/train_without_a_store.py strokes 100

The arguments are a recipe and a number of batches. Every process of `DataLoader` derives its own
batches; the network is the smallest that learns to tell ground from strokes.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

import datagen

BATCH = 64


def main(recipe: str, batches: int) -> None:
    """Train on random mosaics of a recipe; print the share of pixels that are right."""
    torch.manual_seed(0)
    train = datagen.samples(recipe, "mosaics", "train")
    order = BatchSampler(RandomSampler(train, num_samples=batches * BATCH), BATCH, drop_last=True)
    loader = DataLoader(train, sampler=order, batch_size=None, num_workers=2)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for batch in loader:  # {"image": uint8 (64, 56, 56), "mask": uint8 (64, 56, 56), ...}
        wanted = batch["mask"] > 0
        found = network(batch["image"][:, None] / 255)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(found, wanted.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    right = ((found > 0) == wanted).float().mean().item()
    print(
        f"{batches * BATCH:,} mosaics of {len(train):,}; {right:.2%} of the last pixels are right"
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
