"""Batches for a loop of one's own: each sample once, resumed as if never stopped."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from modeling.data import Batches, Split, open_dataset
from modeling.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return open_dataset(fakes.tiny(tmp_path_factory.mktemp("batches"))).split("circles", "train")


def as_bytes(batches: Any) -> list[dict[str, bytes]]:
    return [{name: values.tobytes() for name, values in batch.items()} for batch in batches]


def scaled(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": sample["image"] / np.float32(255), "label": sample["label"]}


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_shows_each_sample_once_and_epochs_differ_if_shuffled(
    split: Split, shuffle: bool, drop_last: bool
) -> None:
    batches = split.loader(7, shuffle=shuffle, drop_last=drop_last, seed=5)
    epochs = [list(batches) for _ in range(2)]
    whole, rest = divmod(len(split), 7)
    assert rest
    assert [len(epoch) for epoch in epochs] == [len(batches)] * 2 == [whole + (not drop_last)] * 2
    images = [np.concatenate([batch["image"] for batch in epoch]) for epoch in epochs]
    kept = len(images[0])
    assert kept == (7 * whole if drop_last else len(split))
    stored = split["image"][:]
    if shuffle:
        assert images[0].tobytes() != images[1].tobytes()
        assert {one.tobytes() for one in images[0]} <= {one.tobytes() for one in stored}
        assert len({one.tobytes() for one in images[0]}) == kept
    else:
        np.testing.assert_array_equal(images[0], stored[:kept])
        np.testing.assert_array_equal(images[1], stored[:kept])


@pytest.mark.parametrize(
    ("shuffle", "transform"),
    [
        (True, None),
        (True, scaled),
        *(pytest.param(False, one, marks=pytest.mark.long) for one in (None, scaled)),
    ],
)
def test_a_resumed_loop_gives_the_batches_of_an_uninterrupted_one(
    split: Split, shuffle: bool, transform: Any
) -> None:
    def fresh() -> Batches:
        return split.with_transform(transform).loader(16, shuffle=shuffle, seed=3)

    uninterrupted = fresh()
    expected = as_bytes([*uninterrupted, *uninterrupted, *uninterrupted])
    for stop in range(2 * len(uninterrupted) + 1):
        first = fresh()
        forever = itertools.chain.from_iterable(iter(first) for _ in itertools.count())
        begun = as_bytes(itertools.islice(forever, stop))
        state = json.loads(json.dumps(first.state_dict()))
        resumed = fresh()
        resumed.load_state_dict(state)
        rest = as_bytes([*resumed, *resumed])
        assert begun + rest[: len(expected) - stop] == expected[: stop + len(rest)]


def test_ranks_share_each_batch(split: Split) -> None:
    for shuffle in (True, False):
        alone = list(split.loader(16, shuffle=shuffle))
        shares = [split.loader(16, shuffle=shuffle, rank=rank, ranks=3) for rank in range(3)]
        for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
            for name, values in batch.items():
                np.testing.assert_array_equal(np.concatenate([one[name] for one in parts]), values)


def test_batches_are_converted_and_are_the_callers_own(split: Split) -> None:
    for batch in split.loader(16, convert=torch.from_numpy):
        assert isinstance(batch["image"], torch.Tensor)
        batch["image"].zero_()
    assert any(batch["image"].any() for batch in split.loader(16))


def test_samples_of_a_transform_are_stacked_or_come_as_a_list(split: Split) -> None:
    batch = next(iter(split.with_transform(scaled).loader(4, shuffle=False)))
    np.testing.assert_array_equal(batch["image"], split["image"][:4] / np.float32(255))
    np.testing.assert_array_equal(batch["label"], split["label"][:4])
    uneven = split.with_transform(lambda one: {"ones": np.ones(int(one["label"]) + 1)})
    sizes = [len(one["ones"]) - 1 for one in next(iter(uneven.loader(4, shuffle=False)))]
    assert sizes == split["label"][:4].tolist()
    images = split.with_transform(lambda one: one["image"])
    assert [one.shape for one in next(iter(images.loader(4)))] == [split["image"].sample_shape] * 4


def test_a_transform_is_given_single_samples_that_it_may_change(split: Split) -> None:
    def blank(sample: dict[str, Any]) -> dict[str, Any]:
        sample["image"][:] = 0
        return sample

    blanked = split.with_transform(blank)
    assert len(blanked) == len(split)
    for one in (blanked[3], *blanked.__getitems__([3, 4]), next(iter(blanked))):
        assert not one["image"].any()
    assert blanked["image"][3].any()  # a column is as it is stored
    for index in (slice(2), [1, 2], np.array([1])):
        with pytest.raises(InputError, match="takes one sample"):
            blanked[index]
    assert split.with_transform(blank).with_transform(None)[:2].keys() == split.columns.keys()
    sent = pickle.loads(pickle.dumps(split.with_transform(scaled)))
    np.testing.assert_array_equal(sent[2]["image"], split[2]["image"] / np.float32(255))


def test_the_plain_dataloader_reads_whole_batches_at_once(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    take = Split.take

    def counted(self: Split, indices: Any, *arguments: Any) -> Any:
        taken.append(len(indices))
        return take(self, indices, *arguments)

    monkeypatch.setattr(Split, "take", counted)
    mapped: Any = split
    loader: DataLoader[Any] = DataLoader(mapped, batch_size=16, shuffle=True)
    images = torch.cat([batch["image"] for batch in loader])
    assert taken == [*[16] * (len(split) // 16), len(split) % 16]
    assert {one.numpy().tobytes() for one in images} == {one.tobytes() for one in split["image"][:]}


def test_a_loop_that_was_left_early_is_followed_by_the_next_epoch(split: Split) -> None:
    whole, left = split.loader(16, seed=3), split.loader(16, seed=3)
    epochs = [as_bytes(whole) for _ in range(2)]
    assert as_bytes([next(iter(left))]) == epochs[0][:1]
    assert as_bytes(left) == epochs[1]


def test_a_rank_without_samples_gets_empty_batches(split: Split) -> None:
    count = len(split) - 1
    for transform in (None, scaled):
        loader = split.with_transform(transform).loader(count, rank=0, ranks=2, shuffle=False)
        last = [*loader][-1]
        assert {name: len(values) for name, values in last.items()} == dict.fromkeys(last, 0)
        assert last["image"].shape[1:] == split["image"].sample_shape
    alone = split.with_transform(lambda one: one["image"]).loader(count, rank=0, ranks=2)
    assert [*alone][-1] == []


def test_ragged_lists_come_as_they_are(split: Split) -> None:
    ragged = split.with_transform(lambda one: {"boxes": [[0], [int(one["label"]), 1]]})
    assert next(iter(ragged.loader(3)))[0]["boxes"][0] == [0]


def test_a_state_of_other_batches_and_wrong_numbers_are_refused(split: Split) -> None:
    state = split.loader(16, seed=3).state_dict()
    other: list[dict[str, Any]] = [{"seed": 4}, {"shuffle": False}, {"drop_last": True}]
    for change in other:
        with pytest.raises(InputError, match=f"other batches: {next(iter(change))}"):
            split.loader(16, **{"seed": 3, **change}).load_state_dict(state)
    with pytest.raises(InputError, match="other batches: batch"):
        split.loader(8, seed=3).load_state_dict(state)
    with pytest.raises(InputError, match="other batches: samples"):
        split.loader(16, seed=3).load_state_dict({**state, "samples": 1})
    with pytest.raises(InputError, match="none of these batches"):
        split.loader(16, seed=3).load_state_dict({**state, "epoch": -3})
    with pytest.raises(InputError, match="no such batches"):
        split.loader(2.5)  # type: ignore[arg-type]
    for step in (-1, 10**6, None, 1.5):
        with pytest.raises(InputError, match="none of these batches"):
            split.loader(16, seed=3).load_state_dict({**state, "step": step})
    with pytest.raises(InputError, match="no such batches: batch must be at least 1"):
        split.loader(0)
    with pytest.raises(InputError, match="rank must be"):
        split.loader(4, rank=2, ranks=2)


def test_batches_need_no_torch(tmp_path: Path) -> None:
    root = fakes.tiny(tmp_path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import modeling\n"
        "split = modeling.open_dataset(sys.argv[1])['circles']['train']\n"
        "print(sum(len(batch['label']) for batch in split.loader(16)) == len(split))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "True\n"
