"""Test that digits of strokes follow from their index alone, look like MNIST, and never change."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from datagen import recipe as recipes
from datagen import sources
from datagen.builder import build
from datagen.errors import RecipeError
from datagen.planning import is_at_hand
from datagen.recipe import Mosaics
from datagen.sources import strokes
from datagen.sources.base import UInt8
from datagen.verifier import verify

Drawn = tuple[UInt8, UInt8]
Int64 = npt.NDArray[np.int64]

SOME = 6_000

# Datasets are built from these bytes and pinned by their digests: other bytes are another source,
# under another name.
GOLDEN_FIRST_500 = "e6c4dbf3e3b4a7a0c2e5d738f20d33f8c6efe1a4707a9467dee53a158e084cd6"
GOLDEN_TRAIN = "776e29c1eecfdebe3104fe6904e7a72fc80218ecd7acfb7e2ab6c05cc66a6923"
GOLDEN_TEST = "3736d6a2decbcfaa6b1fb78b90fc070e284a80aa194a4e4d2c1570d73c32c04b"


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return strokes.draw(np.arange(SOME, dtype=np.uint64))


def digest_of(images: UInt8, labels: UInt8) -> str:
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


def test_images_and_labels_are_bytes_of_the_promised_shape(drawn: Drawn) -> None:
    images, labels = drawn
    assert images.shape == (SOME, 28, 28)
    assert labels.shape == (SOME,)
    assert images.dtype == labels.dtype == np.uint8
    assert images.flags.c_contiguous


def test_no_indices_give_no_samples() -> None:
    images, labels = strokes.draw(np.array([], np.uint64))
    assert images.shape == (0, 28, 28)
    assert labels.shape == (0,)


def test_a_sample_is_the_same_alone_and_among_others(drawn: Drawn) -> None:
    images, labels = drawn
    for index in range(0, SOME, 97):
        alone, label = strokes.draw(np.array([index], np.uint64))
        assert label[0] == labels[index]
        assert np.array_equal(alone[0], images[index]), index


def test_order_and_repetition_change_no_sample(drawn: Drawn) -> None:
    images, labels = drawn
    order = np.concatenate([np.arange(SOME - 1, -1, -3), np.arange(0, SOME, 7)]).astype(np.uint64)
    some, some_labels = strokes.draw(order)
    assert np.array_equal(some_labels, labels[order])
    assert np.array_equal(some, images[order])


def test_a_large_index_gives_an_ordinary_sample() -> None:
    images, _ = strokes.draw(np.array([2**64 - 1, 2**63, 70_000], np.uint64))
    assert (images.max(axis=(1, 2)) > 150).all()


def test_the_first_samples_have_the_golden_digest(drawn: Drawn) -> None:
    images, labels = drawn
    assert digest_of(images[:500], labels[:500]) == GOLDEN_FIRST_500


def test_no_two_samples_are_alike(drawn: Drawn) -> None:
    images, _ = drawn
    assert len({image.tobytes() for image in images}) == SOME


def test_every_digit_has_about_a_tenth_of_the_samples(drawn: Drawn) -> None:
    shares = np.bincount(drawn[1], minlength=10) / SOME
    assert len(shares) == 10
    # Five standard deviations of a share of 1/10 among 6,000.
    assert (np.abs(shares - 0.1) < 0.02).all(), shares


def test_labels_follow_no_order(drawn: Drawn) -> None:
    labels = drawn[1]
    pairs = np.bincount(labels[:-1].astype(np.intp) * 10 + labels[1:], minlength=100)
    chi_square = sum((int(pair) - (SOME - 1) / 100) ** 2 for pair in pairs) / ((SOME - 1) / 100)
    # 99 degrees of freedom: the chance is about one in a million
    assert chi_square < 180, chi_square


def ink_sides(images: UInt8) -> tuple[Int64, Int64]:
    """Measure the height and width of the box round each image's ink."""
    ink = images > 0
    rows, columns = np.asarray(ink.any(axis=2)), np.asarray(ink.any(axis=1))
    first_row, first_column = rows.argmax(axis=1), columns.argmax(axis=1)
    last_row, last_column = 27 - rows[:, ::-1].argmax(axis=1), 27 - columns[:, ::-1].argmax(axis=1)
    return last_row - first_row + 1, last_column - first_column + 1


def test_the_ink_fills_a_box_of_twenty_pixels(drawn: Drawn) -> None:
    height, width = ink_sides(drawn[0])
    longer = np.maximum(height, width)
    assert longer.max() == 20
    assert (longer >= 18).mean() > 0.99
    assert (longer == 20).mean() > 0.9


def test_the_centre_of_mass_is_the_frame_s_middle(drawn: Drawn) -> None:
    images = drawn[0].astype(np.float64)
    place = np.arange(28)
    mass = images.sum(axis=(1, 2))
    x = (images.sum(axis=1) * place).sum(axis=1) / mass
    y = (images.sum(axis=2) * place).sum(axis=1) / mass
    away = np.maximum(np.abs(x - 14), np.abs(y - 14))
    assert (away <= 0.5).mean() > 0.995
    assert away.max() < 2.0  # a lopsided digit whose ink would leave the frame stays inside


def test_grey_levels_are_those_of_handwriting(drawn: Drawn) -> None:
    """Compare with MNIST: 19.1% of its pixels are not background, and their mean is 33.3."""
    images = drawn[0]
    assert 0.18 < (images > 0).mean() < 0.20
    assert 31.0 < images.mean() < 36.0
    assert (images.max(axis=(1, 2)) == 255).mean() > 0.8
    ink = images[images > 0]
    assert 0.3 < (ink >= 250).mean() < 0.45
    assert images.min(axis=(1, 2)).max() == 0


def test_each_digit_varies_from_sample_to_sample(drawn: Drawn) -> None:
    images, labels = drawn
    for digit in range(10):
        deviation = images[labels == digit].astype(np.float64).std(axis=0)
        assert deviation.max() > 90, digit


def test_nearly_normal_numbers_have_mean_0_and_deviation_1() -> None:
    numbers = strokes._normal(np.arange(40_000, dtype=np.uint64), strokes.Stream.SLANT)
    assert abs(numbers.mean()) < 0.02
    assert abs(numbers.std() - 1) < 0.02


def test_streams_share_no_numbers() -> None:
    rows = strokes._hash(np.arange(1_000, dtype=np.uint64), list(range(400)))
    assert len(np.unique(rows)) == rows.size


def test_one_disc_is_inked_as_by_hand() -> None:
    """Draw with a pen of radius 2 at the centre of pixel (14, 14), its edge fading over 1 pixel.

    Its field is (4 - d^2) / 4, and 1/2 more covers: over 1 within d^2 <= 2, 1/2 at d = 2, 1/4 at
    d^2 = 5, and nothing from d^2 = 6 on. The cubic step turns that into 285, 142.5 and 44.5; 255
    is the maximum.
    """
    at = np.full((1, 1), 14.0)
    image = strokes._ink(at, at, np.full((1, 1), 2.0), np.ones(1), strokes.Frame(28))
    quarter = [[255, 255, 142, 0], [255, 255, 45, 0], [142, 45, 0, 0], [0, 0, 0, 0]]
    assert image[0, 10:14, 10:14].tolist() == quarter
    assert int(np.count_nonzero(image)) == 21
    assert np.array_equal(image[0, 10, 10 - 3 : 10 + 4], image[0, 10 - 3 : 10 + 4, 10])


def test_ink_from_windows_is_ink_from_whole_frames() -> None:
    generator = np.random.default_rng(7)
    positions, samples = 9, 12
    x, y = np.rint(generator.uniform(4, 23, (2, positions, samples)) * strokes.GRID) / strokes.GRID
    radius = generator.uniform(0.4, 3.0, (positions, samples))
    soft = generator.uniform(1.0, 2.0, samples)
    place = np.arange(4, 24)
    dx, dy = place - x[..., None, None], place[:, None] - y[..., None, None]
    disc = 0.5 * radius[..., None, None] - 0.5 / radius[..., None, None] * (dx * dx + dy * dy)
    cover = np.clip(disc.max(axis=0) / soft[:, None, None] + 0.5, 0, 1)
    naive = np.rint(np.minimum(cover * cover * (3 - 2 * cover) * strokes.GAIN, 255))
    fast = strokes._ink(x, y, radius, soft, strokes.Frame(28)).astype(np.int64)
    # Float32 against float64: a level may fall to the other side of a half.
    assert np.abs(fast - naive).max() <= 1
    assert (fast != naive).mean() < 0.001


@pytest.mark.parametrize("side", [20, 28, 56, 129, 256])
def test_discs_drawn_together_and_apart_give_the_same_ink(side: int) -> None:
    generator = np.random.default_rng(side)
    low, high = side / 7, side - side / 7
    x, y = generator.uniform(low, high, (2, 7, 3))
    radius = generator.uniform(0.02 * side, 0.1 * side, (7, 3))
    drawn = [
        draw_field(x, y, radius, np.array([1.2, 1.5, 1.9]), strokes.Frame(side))
        for draw_field in (strokes._field_together, strokes._field_apart)
    ]
    inked = drawn[1] > -0.5  # elsewhere there is no ink, and what lies there depends on the window
    assert inked.any()
    assert np.array_equal(np.where(drawn[0] > -0.5, drawn[0], 0), np.where(inked, drawn[1], 0))


# Other sides


def smaller(images: UInt8, times: int) -> npt.NDArray[np.float64]:
    """Average squares of pixels: (n, H, W) -> (n, H / times, W / times)."""
    n, height, width = images.shape
    cut = images.reshape(n, height // times, times, width // times, times)
    return np.asarray(cut.mean(axis=(2, 4)))


GOLDEN_SIDES = {
    20: "271c0ae2e491c918da51a8575fc90d97e7000b9fd47e62bf643a6dde0275b41f",
    29: "f696a378abfc58d6a495fde77e4e18ed329b47d140100933d4ac3c167584ad28",
    56: "2768536c39e840f6491c5a0f85477a010a94c4dcfda826db8fdd671be8c678c3",
    112: "4a69c6de51f0b4af9ec5b2780db9bb67b15d322187cb8fc6b2d3426991b49f69",
    224: "e0f2e5f4717b4480d68cf6c1018242c77b5ac19ef473e86ac66092187d56b7c8",
    256: "2e86405e4d4546dab89d84282440d48215f7b4ac5fa9a5cd4f6f3e7db71f3f07",
}


@pytest.mark.parametrize("side", GOLDEN_SIDES)
def test_the_first_samples_of_other_sides_have_their_digests(side: int, drawn: Drawn) -> None:
    images, labels = strokes.draw(np.arange(30, dtype=np.uint64), side)
    assert images.shape == (30, side, side)
    assert labels.tolist() == drawn[1][:30].tolist()
    assert digest_of(images, labels) == GOLDEN_SIDES[side]


@pytest.mark.parametrize("side", [20, 21, 27, 28, 35, 64, 128, 250, 256])
def test_digits_of_any_side_have_the_proportions_of_those_of_28(side: int) -> None:
    images, _ = strokes.draw(np.arange(40, dtype=np.uint64), side)
    margin = side // 7
    ink = np.asarray((images > 0).any(axis=0))
    assert not ink[0].any()
    assert not ink[:, 0].any()
    rows = np.asarray((images > 0).any(axis=2))
    columns = np.asarray((images > 0).any(axis=1))
    longer = np.maximum(rows.sum(axis=1), columns.sum(axis=1))
    assert (longer <= side - 2 * margin).all()
    assert (longer >= 0.9 * (side - 2 * margin)).mean() > 0.9
    assert 25 < images.mean() < 55
    assert (images.max(axis=(1, 2)) > 150).all()


def test_a_digit_is_the_same_one_at_every_side(drawn: Drawn) -> None:
    """Compare each digit with its own at twice the side, averaged, and with the next one's."""
    images = drawn[0][:50].astype(np.float64)
    averaged = smaller(strokes.draw(np.arange(50, dtype=np.uint64), 56)[0], 2)
    own = np.abs(images - averaged).mean(axis=(1, 2))
    other = np.abs(images - np.roll(averaged, 1, axis=0)).mean(axis=(1, 2))
    assert (own < other).all()
    assert own.mean() < 0.4 * other.mean()


def test_a_sample_of_another_side_is_the_same_alone_and_among_others() -> None:
    images, _ = strokes.draw(np.arange(70, dtype=np.uint64), 150)
    for index in (0, 33, 69):
        assert np.array_equal(strokes.draw(np.array([index], np.uint64), 150)[0][0], images[index])


def test_steps_are_divided_within_strokes_only() -> None:
    glyph = strokes._glyph(1, 100, ("0 0, 4 0/0 10, 4 10",))
    path = strokes._along(glyph, glyph.poses[0])
    divided = strokes._divided(glyph, path, 2)
    assert path[:, 0].tolist() == [0, 4, 0, 4]
    assert divided[:, 0].tolist() == [0, 2, 4, 0, 2, 4]
    assert divided[:, 1].tolist() == [0, 0, 0, 10, 10, 10]
    assert strokes._divided(glyph, path, 1) is path


def test_the_edge_of_a_line_is_as_even_at_every_side() -> None:
    for side in range(20, 257):
        parts = strokes.Frame(side).parts
        assert 28 * parts**2 >= side
        assert parts == 1 or 28 * (parts - 1) ** 2 < side


@pytest.mark.parametrize(
    "spec", ["strokes:", "strokes:19", "strokes:257", "strokes:056", "strokes:x"]
)
def test_a_side_that_cannot_be_drawn_is_refused(spec: str) -> None:
    with pytest.raises(
        RecipeError, match=r"a side to draw digits of \(expected strokes:SIDE from 20"
    ):
        sources.load(spec)
    assert not is_at_hand(spec)


def test_a_dataset_of_drawn_digits_records_their_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strokes, "TRAIN", 60)
    monkeypatch.setattr(strokes, "TEST", 10)
    recipe = replace(recipes.load("strokes"), source="strokes:40", mosaics=Mosaics((1, 1), 5, 2, 2))
    assert recipe.without_path() == recipe
    built = build(replace(recipe, val=5), tmp_path / "made")
    assert built.manifest is not None
    assert built.manifest.recipe.source == built.manifest.source.name == "strokes:40"
    assert built.manifest.source.tile == (40, 40)
    verdict = verify(tmp_path / "made")
    assert (verdict.problems, verdict.checked_against) == ((), "the source")
    other = sources.load("strokes:28")
    assert other.digests == sources.load("strokes").digests
    assert (other.name, sources.found("strokes:28")) == ("strokes:28", "embedded")


def test_paths_run_through_their_control_points() -> None:
    for glyph in strokes.glyphs():
        points = glyph.poses.transpose(1, 2, 0)
        path = strokes._along(glyph, points.reshape(len(points), -1)).reshape(-1, *points.shape[1:])
        for point in points:
            assert np.abs(path - point).max(axis=(1, 2)).min() < 1e-9, glyph.digit


def test_a_straight_skeleton_makes_a_straight_even_path() -> None:
    glyph = strokes._glyph(1, 100, ("0 0, 10 0, 20 0, 30 0",))
    path = strokes._along(glyph, glyph.poses[0])
    assert np.allclose(path[:, 0], np.arange(len(path)) * 30 / (len(path) - 1), atol=1e-12)
    assert not path[:, 1].any()


def test_the_shares_of_the_ways_of_writing_a_digit_add_up_to_one() -> None:
    shares = dict.fromkeys(range(10), 0)
    for glyph in strokes.glyphs():
        shares[glyph.digit] += glyph.weight
        assert len(glyph.strokes) <= (400 - strokes.Stream.POINT) // 2
    assert set(shares.values()) == {100}


# Names whose result is the same on every IEEE machine: element-wise, exact, or without arithmetic.
EXACT_NUMPY = {
    *(
        "arange",
        "array",
        "asarray",
        "ascontiguousarray",
        "atleast_1d",
        "empty",
        "full",
        "zeros",
        "flatnonzero",
    ),
    *(
        "float32",
        "float64",
        "int64",
        "intp",
        "uint8",
        "uint64",
        "add",
        "argsort",
        "floor",
        "rint",
        "sqrt",
    ),
    *("maximum", "minimum"),
}
EXACT_MATH = {"ceil", "sqrt"}
INEXACT_METHODS = {"cumsum", "cumprod", "dot", "mean", "prod", "std", "trace", "var"}


def inexact(code: str) -> list[str]:
    """List the operations that could differ from one processor or library to another."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            module = node.value.id if isinstance(node.value, ast.Name) else ""
            allowed = {"np": EXACT_NUMPY, "math": EXACT_MATH}.get(module)
            if (node.attr not in allowed) if allowed else (node.attr in INEXACT_METHODS):
                found.append(f"{module}.{node.attr}")
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(
            node.op, (ast.Pow, ast.MatMult)
        ):
            found.append(type(node.op).__name__)
        if isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if name == "sum" and "dtype=np.int64" not in [
                ast.unparse(keyword) for keyword in node.keywords
            ]:
                found.append("sum")
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "cv2" in ast.unparse(node):
            found.append("cv2")
    return found


def test_the_source_computes_with_exact_operations_only() -> None:
    assert inexact(Path(strokes.__file__).read_text()) == []


@pytest.mark.parametrize(
    "code",
    [
        "np.exp(x)",
        "np.sum(x, dtype=np.int64)",
        "x.sum(axis=0)",
        "x.sum(dtype=np.float64)",
        "sum(x)",
        "x.mean()",
        "x @ y",
        "x ** 2",
        "x **= 2",
        "math.hypot(x, y)",
        "np.random.default_rng(0)",
        "np.linalg.norm(x)",
        "import cv2",
    ],
)
def test_an_inexact_operation_is_found(code: str) -> None:
    assert inexact(code)


@pytest.mark.long
def test_the_whole_source_has_the_golden_digest_and_distinct_images() -> None:
    source = strokes.load()
    train, test = source.parts["train"], source.parts["test"]
    assert (len(train.images), len(test.images)) == (60_000, 10_000)
    assert source.classes == tuple("0123456789")
    assert source.digests == {"train": GOLDEN_TRAIN, "test": GOLDEN_TEST}
    assert source.digests["test"] == digest_of(test.images, test.labels)
    assert (
        len({image.tobytes() for part in source.parts.values() for image in part.images}) == 70_000
    )
    alone, _ = strokes.draw(np.array([60_000], np.uint64))
    assert np.array_equal(alone[0], test.images[0])
