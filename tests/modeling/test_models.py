"""Test that networks take images of any size and depend on neither batch nor grid."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datagen.sources import strokes
from modeling.networks import CircleNet, ForegroundNet, MosaicNet, semantic
from modeling.networks.blocks import (
    GlobalContext,
    LocalContext,
    Residual,
    Trunk,
    grey_levels,
    vote,
)
from modeling.networks.pixels import scale

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(28, 28), (56, 56), (30, 45), (5, 3), (84, 84)]
# that a cell may point to, down and right, in their order
PLACES = list(itertools.product((-2, 0, 2), repeat=2))


def images(count: int, height: int = 28, width: int = 28, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width), generator=generator).to(torch.uint8)


def digits(count: int) -> Tensor:
    return torch.from_numpy(strokes.draw(np.arange(count, dtype=np.uint64))[0])


def foreground_net(*, context: bool = True) -> ForegroundNet:
    torch.manual_seed(0)
    return ForegroundNet((4, 8, 8), 1, context=context).eval()


def mosaic_net(*, context: bool = True) -> MosaicNet:
    torch.manual_seed(0)
    net = MosaicNet((4, 8, 8), 1, classes=10, context=context).eval()
    if net.context is not None:
        # which begins at 0, where it would hide what it does
        nn.init.normal_(net.context.correction.weight)
    return net


def circle_net(*, context: bool = True) -> CircleNet:
    torch.manual_seed(0)
    return CircleNet((8, 16), 1, classes=10, context=context).eval()


NETS: list[Callable[[], nn.Module]] = [
    foreground_net,
    lambda: foreground_net(context=False),
    mosaic_net,
    lambda: mosaic_net(context=False),
    circle_net,
    lambda: circle_net(context=False),
]


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_foreground_has_a_logit_for_each_pixel(height: int, width: int, *, context: bool) -> None:
    outputs = foreground_net(context=context)(images(2, height, width))
    assert outputs["logits"].shape == (2, height, width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_mosaics_have_a_probability_of_each_label_at_each_pixel(height: int, width: int) -> None:
    outputs = mosaic_net()(images(2, height, width))
    assert outputs["foreground"].shape == (2, height, width)
    assert outputs["classes"].shape == (2, 10, -(-height // 2), -(-width // 2))
    probabilities = semantic(outputs).exp()
    assert probabilities.shape == (2, 11, height, width)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, height, width))
    torch.testing.assert_close(1 - probabilities[:, 0], outputs["foreground"].sigmoid())


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_circles_have_a_class_and_a_logit_for_each_pixel(
    height: int, width: int, *, context: bool
) -> None:
    outputs = circle_net(context=context)(images(2, height, width))
    assert outputs["label_logits"].shape == (2, 10)
    assert outputs["logits"].shape == (2, height, width)


@pytest.mark.parametrize("make", NETS)
def test_a_sample_does_not_depend_on_its_batch(make: Callable[[], nn.Module]) -> None:
    net, batch = make(), digits(6)
    together, alone = net(batch), net(batch[2:3])
    for name in alone:
        torch.testing.assert_close(together[name][2:3], alone[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", NETS)
def test_every_parameter_learns(make: Callable[[], nn.Module]) -> None:
    net, batch = make().train(), digits(16)
    for end in [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]:
        if not end.weight.any():
            nn.init.normal_(end.weight, std=0.01)  # what starts at 0 passes no gradient back
    outputs = net(batch)
    sum(
        values.float().square().sum() for values in outputs.values() if values.requires_grad
    ).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    "make", [foreground_net, mosaic_net, lambda: mosaic_net(context=False), circle_net]
)
def test_the_ends_of_a_network_are_parts_of_it(make: Callable[[], nn.Module]) -> None:
    net = make()
    for end in net.ends:  # type: ignore[union-attr]
        assert any(name.startswith(f"{end}.") for name, _ in net.named_parameters()), end


def test_grey_levels_are_the_histogram() -> None:
    batch = images(3, 9, 7)
    found = grey_levels(batch)
    for image, shares in zip(batch, found, strict=True):
        expected = torch.bincount(image.flatten().long(), minlength=256) / 63
        torch.testing.assert_close(shares, expected)


@pytest.mark.parametrize("make", [foreground_net, circle_net])
def test_context_sees_the_whole_image_and_without_it_distant_pixels_do_not_matter(
    make: Callable[..., nn.Module],
) -> None:
    near = torch.zeros(1, 256, 256, dtype=torch.uint8)
    far = near.clone()
    far[0, 200:, 200:] = 255
    for context in (True, False):
        net = make(context=context)
        if context:
            nn.init.normal_(net.context.curve.weight, std=0.1)  # type: ignore[union-attr, arg-type]
        change = (net(near)["logits"] - net(far)["logits"])[0, :20, :20].abs().max().item()
        assert (change > 1e-3) == context


def test_shifting_mosaics_by_whole_cells_shifts_the_output() -> None:
    """Away from the padded border the output depends on no position: no grid is known."""
    net = mosaic_net()
    small = digits(1)
    canvas = torch.zeros(2, 160, 160, dtype=torch.uint8)
    canvas[0, 64:92, 64:92] = small
    canvas[1, 72:100, 80:108] = small
    outputs = net(canvas)
    torch.testing.assert_close(
        outputs["foreground"][0, 64:92, 64:92],
        outputs["foreground"][1, 72:100, 80:108],
        atol=1e-4,
        rtol=1e-4,
    )
    torch.testing.assert_close(
        outputs["classes"][0, :, 32:46, 32:46],
        outputs["classes"][1, :, 36:50, 40:54],
        atol=1e-4,
        rtol=1e-4,
    )


def test_each_cell_reads_the_windows_that_it_points_to() -> None:
    """Compute the local context in loops: windows of 7x7 cells and 3x3 places to point to."""
    torch.manual_seed(0)
    local = LocalContext(6, 4, classes=3)
    nn.init.normal_(local.correction.weight)
    image, features = images(2, 20, 36), torch.randn(2, 6, 5, 9)
    found, pointing = local(image, features)
    assert (found.shape, pointing.shape) == ((2, 5, 9, 5), (2, 5, 9, 9))
    outputs = {}
    for sample, row, column in np.ndindex(2, 5, 9):
        statistics, mean = torch.zeros(32), torch.zeros(6)
        for y, x in _around(row, column, 3):
            mean += features[sample, :, y, x] / 49
            for level in image[sample, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten().tolist():
                statistics[level // 16] += 1 / (49 * 16)
                statistics[16 + level // 16] += level % 16 / 16 / (49 * 16)
        top = torch.stack([features[sample, :, y, x] for y, x in _around(row, column, 3)]).amax(0)
        hidden = F.relu(local.mixer(F.relu(local.levels(statistics * 16))))
        logits = local.classes(local.reader(torch.cat([mean, top])))
        outputs[sample, row, column] = torch.cat([local.correction(hidden), logits])
    for sample, row, column in np.ndindex(2, 5, 9):
        weights = local.pointer(features[sample, :, row, column]).softmax(0)
        torch.testing.assert_close(pointing[sample, row, column], weights)
        expected = torch.zeros(5)
        for weight, (down, right) in zip(weights, PLACES, strict=True):
            expected += weight * outputs.get((sample, row + down, column + right), torch.zeros(5))
        torch.testing.assert_close(found[sample, row, column], expected, atol=1e-5, rtol=1e-4)


def _around(row: int, column: int, reach: int) -> list[tuple[int, int]]:
    """List the cells of 5x9 that are at most so far away in each direction."""
    rows, columns = range(row - reach, row + reach + 1), range(column - reach, column + reach + 1)
    return [(y, x) for y, x in itertools.product(rows, columns) if y in range(5) and x in range(9)]


def test_cells_vote_by_their_foreground_at_the_cells_they_point_to() -> None:
    """Compute the vote in loops: sent to 3x3 places, averaged with the neighbours, sent back."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 4, 5, 3, generator=generator)
    foreground = torch.rand(1, 4, 5, 1, generator=generator)
    weights = torch.randn(1, 4, 5, 9, generator=generator).softmax(-1)
    log_probabilities = logits.log_softmax(-1)
    votes: dict[tuple[int, int], Tensor] = defaultdict(lambda: torch.zeros(4))
    for row, column, (place, (down, right)) in itertools.product(
        range(4), range(5), enumerate(PLACES)
    ):
        given = weights[0, row, column, place] * foreground[0, row, column]
        votes[row + down, column + right] += torch.cat(
            [given * log_probabilities[0, row, column], given]
        )
    found = vote(logits, foreground, weights)
    near = list(itertools.product((-1, 0, 1), repeat=2))
    for row, column in np.ndindex(4, 5):
        expected = torch.zeros(3)
        for place, (down, right) in enumerate(PLACES):
            heard = torch.stack(
                [votes[row + down + y, column + right + x].clone() for y, x in near]
            ).sum(0)
            expected += weights[0, row, column, place] * heard[:3] / (heard[3] + 9 * 1e-4)
        torch.testing.assert_close(found[0, row, column], expected, atol=1e-5, rtol=1e-4)


def test_cells_that_agree_keep_their_class_at_a_border_and_without_any_vote() -> None:
    logits = torch.zeros(1, 8, 8, 4)
    logits[..., 2] = 5
    weights = torch.zeros(1, 8, 8, 9)
    weights[..., 0] = 1  # all point up and to the left, so some out of the image
    found = vote(logits, torch.ones(1, 8, 8, 1), weights)
    torch.testing.assert_close(found, logits.log_softmax(-1), atol=1e-2, rtol=0)
    assert vote(logits, torch.zeros(1, 8, 8, 1), weights).isfinite().all()


def test_a_mosaic_network_votes_only_once_it_is_trained() -> None:
    net, image = mosaic_net(), images(2, 24, 24)
    with torch.no_grad():
        trained, training = net(image), net.train()(image)
    assert net.context is not None
    torch.testing.assert_close(trained["foreground"], training["foreground"])
    cells = training["classes"][:, :, ::2, ::2].permute(0, 2, 3, 1)
    share = training["foreground"].sigmoid().view(2, 6, 4, 6, 4).mean((2, 4))[..., None]
    features = net.trunk.ascend(
        net.trunk.descend(F.relu(net.stem(F.pixel_unshuffle(scale(image), 2))))
    )[1]
    weights = net.context.pointer(F.relu(features).permute(0, 2, 3, 1)).softmax(-1)
    voted = vote(cells, share, weights).permute(0, 3, 1, 2)
    torch.testing.assert_close(
        trained["classes"], voted.repeat_interleave(2, -1).repeat_interleave(2, -2)
    )
    assert not torch.allclose(trained["classes"], training["classes"])


def test_large_offsets_that_cancel_leave_no_rounding_once_a_mosaic_network_is_trained() -> None:
    """Another runtime rounds differently, and the vote would amplify that: see LocalContext."""
    net, image = mosaic_net(), images(2, 48, 48)
    assert net.context is not None
    nn.init.normal_(net.context.pointer.weight)
    nn.init.zeros_(net.pixel_head.weight)
    nn.init.zeros_(net.context.correction.weight)
    net.context.correction.bias = nn.Parameter(torch.tensor([60.0, 0.0]))
    net.pixel_head.bias = nn.Parameter(torch.tensor([0.0, *[-960.0] * 4]))
    with torch.no_grad():
        trained, training = net(image)["foreground"], net.train()(image)["foreground"]
    assert trained.dtype == training.dtype == torch.float32
    inner = (..., slice(8, -8), slice(8, -8))  # at the border, what a cell points to may be nothing
    assert trained[inner].abs().max() < 1e-9
    assert 1e-6 < training[inner].abs().max() < 1e-3


def test_foreground_of_a_mosaic_is_linear_in_the_grey_level_of_each_pixel() -> None:
    net, image = mosaic_net(context=False), images(2, 18, 22)
    nn.init.zeros_(net.pixel_head.weight)
    net.pixel_head.bias = nn.Parameter(torch.tensor([2.0, 0.1, 0.2, 0.3, 0.4]))
    found = net(image)["foreground"].detach()
    expected = 2 * image.float() / 16
    for offset, (y, x) in zip(
        (0.1, 0.2, 0.3, 0.4), itertools.product((0, 1), repeat=2), strict=True
    ):
        expected[:, y::2, x::2] += offset
    torch.testing.assert_close(found, expected)


def test_a_pixel_of_a_digit_gets_its_own_logit_of_its_cell() -> None:
    """With biases alone, each of the four logits of a cell is at its own pixel."""
    net = circle_net(context=False)
    nn.init.zeros_(net.pixel_head.weight)
    net.pixel_head.bias = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    found = net(images(1, 5, 7))["logits"][0]
    for number, (y, x) in enumerate(itertools.product((0, 1), repeat=2)):
        torch.testing.assert_close(
            found[y::2, x::2], torch.full_like(found[y::2, x::2], 0.1 * (number + 1))
        )


def test_a_curve_is_a_logit_for_each_grey_level_of_the_image() -> None:
    torch.manual_seed(0)
    context, batch = GlobalContext(8), images(3, 9, 7)
    nn.init.normal_(context.curve.weight)
    summary, logits = context(batch)
    for image, features, found in zip(batch, summary, logits, strict=True):
        embedded = context.embedding(
            torch.bincount(image.flatten().long(), minlength=256) * 16 / 63
        )
        torch.testing.assert_close(features, F.relu(context.mixer(F.relu(embedded))))
        curve = context.curve(features)
        torch.testing.assert_close(found, curve[image.long()])


def test_a_trunk_refines_the_coarser_scales() -> None:
    """Both the coarsest and the finest scale reach the output."""
    trunk = Trunk((4, 6, 8), 1)
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    scales = trunk.descend(x)
    assert [tuple(scale.shape[1:]) for scale in scales] == [(4, 8, 8), (6, 4, 4), (8, 2, 2)]
    for number in range(3):
        changed = [scale.clone() for scale in scales]
        changed[number] += 1
        assert not torch.allclose(trunk.ascend(changed)[0], trunk.ascend(scales)[0])


def test_a_residual_block_with_gain_0_is_the_identity() -> None:
    block = Residual(5)
    nn.init.zeros_(block.gain)
    x = torch.randn(2, 5, 6, 7)
    assert torch.equal(block(x), x)
