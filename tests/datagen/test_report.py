"""Test that the pictures of any dataset show what the numbers say."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from datagen import circle, drawing
from datagen.builder import build
from datagen.dataset import Dataset
from datagen.drawing import UInt8
from datagen.errors import DamagedError
from datagen.layout import SPLITS
from datagen.lookup import choose
from datagen.preview import (
    _circle_tiles,
    _look,
    _mosaic_tiles,
    _strips,
    sample_picture,
    write_preview,
)
from datagen.recipe import Mosaics, Recipe, Storage

NAMES = ["overview.png", "foreground.png", "circles.png", "mosaics.png"]


def noise(count: int, height: int, width: int) -> UInt8:
    return np.random.default_rng(7).integers(0, 256, (count, height, width), dtype=np.uint8)


DIGITS = noise(120, 9, 7), np.arange(120) // 3 % 10, Mosaics((2, 2), 40, 20, 20)


def make_dataset(
    folder: Path,
    images: UInt8,
    labels: npt.ArrayLike,
    mosaics: Mosaics,
    *,
    classes: list[str] | None = None,
    storage: Storage | None = None,
) -> Path:
    """Build a dataset in `folder`; every third image goes to the same split."""
    arrays = {f"{split}_images": images[i::3] for i, split in enumerate(SPLITS)}
    arrays |= {f"{split}_labels": np.asarray(labels)[i::3] for i, split in enumerate(SPLITS)}
    if classes is not None:
        arrays["classes"] = np.array(classes)
    with (folder / "source.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    root = folder / "dataset"
    build(
        Recipe(f"npz:{folder / 'source.npz'}", mosaics=mosaics, storage=storage or Storage()), root
    )
    return root


def decoded(data: bytes) -> UInt8:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.asarray(picture, np.uint8)[:, :, ::-1]


def find(picture: UInt8, part: UInt8) -> tuple[int, int]:
    """Find the part in the picture, pixel by pixel; return top and left."""
    height, width = part.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (height, width), axis=(0, 1))
    first = (windows[..., 0, 0] == part[0, 0]).all(axis=-1) & (
        windows[..., -1, -1] == part[-1, -1]
    ).all(axis=-1)
    for top, left in np.argwhere(first):
        if (picture[top : top + height, left : left + width] == part).all():
            return int(top), int(left)
    raise AssertionError("the picture does not show it")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("report"), *DIGITS)


@pytest.fixture(scope="module")
def preview(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_preview(root, tmp_path_factory.mktemp("report") / "preview")


def contents(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def test_a_preview_is_an_overview_and_a_sheet_for_each_task(preview: list[Path]) -> None:
    assert [path.name for path in preview] == NAMES
    assert sorted(path.name for path in preview[0].parent.iterdir()) == sorted(NAMES)
    for path in preview:
        height, width = decoded(path.read_bytes()).shape[:2]
        assert 300 <= height <= 1800
        assert 900 <= width <= 1800
        assert path.stat().st_size < 400_000


def test_an_overview_of_the_foreground_alone_fills_its_width(tmp_path: Path) -> None:
    source = tmp_path / "source.npy"
    np.save(source, noise(120, 9, 7))
    root = tmp_path / "dataset"
    build(Recipe(f"npz:{source}"), root)
    overview, sheet = write_preview(root, tmp_path / "preview")
    assert [overview.name, sheet.name] == ["overview.png", "foreground.png"]
    picture = decoded(overview.read_bytes())
    body = (picture[:-100] != drawing.PAGE).any(axis=(0, 2))  # columns above the footer
    assert np.flatnonzero(body).max() > 0.85 * picture.shape[1]
    assert len(choose(Dataset(root), "foreground", 20)) == 20  # whole lines


def test_the_same_dataset_gives_the_same_bytes(
    root: Path, preview: list[Path], tmp_path: Path
) -> None:
    assert contents(write_preview(root, tmp_path)) == contents(preview)


def test_formats_and_compression_do_not_change_the_pictures(
    preview: list[Path], tmp_path: Path
) -> None:
    packed = make_dataset(tmp_path, *DIGITS, storage=Storage("zarr", 256, "zstd"))
    drawn = write_preview(packed, tmp_path / "preview")
    for ours, theirs in zip(drawn, preview, strict=True):
        assert (decoded(ours.read_bytes()) == decoded(theirs.read_bytes())).all()


def test_only_a_picture_that_differs_is_written_again(
    root: Path, preview: list[Path], tmp_path: Path
) -> None:
    paths = [Path(shutil.copy(path, tmp_path)) for path in preview]
    paths[1].write_bytes(b"another picture")
    before = [path.stat().st_ino for path in paths]
    write_preview(root, tmp_path)
    written = [was != path.stat().st_ino for was, path in zip(before, paths, strict=True)]
    assert written == [False, True, False, False]
    assert contents(paths) == contents(preview)


@pytest.mark.parametrize(
    ("images", "labels", "mosaics"),
    [
        pytest.param(
            noise(3, 1, 1), [0, 0, 0], Mosaics((1, 1), 1, 1, 1), id="one pixel, one sample"
        ),
        pytest.param(
            np.arange(30, dtype=np.uint8)[:, None, None].repeat(5, 2),
            np.arange(30) % 4,
            Mosaics((2, 3), 9, 9, 9),
            id="constant",
        ),
        pytest.param(
            noise(30, 2, 3), np.arange(30) % 10, Mosaics((64, 64), 1, 1, 1), id="64 x 64 tiles"
        ),
        pytest.param(
            noise(762, 4, 4), np.arange(762) // 3, Mosaics((2, 1), 30, 9, 9), id="254 classes"
        ),
        pytest.param(
            noise(3, 4, 4).repeat(128, 1).repeat(128, 2),
            [0, 1, 2],
            Mosaics((2, 1), 1, 1, 1),
            id="large",
        ),
        pytest.param(noise(9, 1, 512), np.arange(9) % 2, Mosaics((2, 1), 2, 2, 2), id="wide"),
    ],
)
def test_datasets_of_any_shape_can_be_drawn(
    tmp_path: Path, images: UInt8, labels: npt.ArrayLike, mosaics: Mosaics
) -> None:
    storage = Storage("hdf5")  # which does not fill up chunks of 256 large samples
    root = make_dataset(tmp_path, images, labels, mosaics, storage=storage)
    for path in write_preview(root, tmp_path / "preview"):
        height, width = decoded(path.read_bytes()).shape[:2]
        assert height <= 2000
        assert 300 <= width <= 2000


@pytest.mark.parametrize(
    ("column", "value"), [("label", 200), ("circle", -1), ("circle", [1, 1, 1, 1 << 40])]
)
def test_impossible_values_are_damage_and_nothing_is_drawn(
    root: Path, tmp_path: Path, column: str, value: int | list[int]
) -> None:
    dataset = Dataset(Path(shutil.copytree(root, tmp_path / "dataset")))
    columns = [facts.name for facts in dataset.manifest.tasks["circles"]["val"].columns]
    facts = dataset.manifest.tasks["circles"]["val"].columns[columns.index(column)]
    offset = int(dataset.table("circles", "val")[columns.index(column), 0]["offset"])
    np.memmap(
        dataset.root / facts.path.format(shard=0), facts.dtype, "r+", offset, (8, *facts.shape)
    )[:] = value
    with pytest.raises(DamagedError, match="val, sample"):
        write_preview(dataset.root, tmp_path / "preview")
    assert not (tmp_path / "preview").exists()


def test_class_names_that_cannot_be_drawn_do_not_matter(tmp_path: Path) -> None:
    names = [
        "été",
        "日本",
        "a name that is much too long to stand below a small picture",
        "\N{SNOWMAN}",
    ]
    root = make_dataset(
        tmp_path, noise(24, 5, 5), np.arange(24) % 4, Mosaics((2, 2), 9, 9, 9), classes=names
    )
    assert len(write_preview(root, tmp_path / "preview")) == 4
    drawn = [drawing.drawable_name(name, index) for index, name in enumerate(names)]
    assert drawn == ["ete", "class 1", "a name that..", "class 3"]


def test_colours_of_16_bits_stay_and_bands_taken_from_more_are_stretched_each() -> None:
    level = np.linspace(0, 1, 10_000).reshape(100, 100, 1)
    colours = (level * np.array([60_000, 30_000, 6_000])).astype(np.uint16)
    shown = drawing.visible(colours).astype(np.float64)
    assert np.abs(shown - 255 * (colours / 60_000)).max() < 2
    more = np.concatenate([colours, colours[..., :1]], axis=2)
    each = drawing.visible(more)
    assert np.ptp(each, axis=2).max() <= 1  # grey: each band from black to white
    grey = drawing.visible(colours[..., 0])
    assert np.array_equal(grey[..., 0], each[..., 0])


def test_a_small_bright_object_of_16_bits_is_seen_beside_a_large_one() -> None:
    """It takes up 0.1% of the picture; an organ, half as bright, takes up a quarter."""
    scan = np.full((128, 128), 1000, np.uint16)
    scan[:64, :64] = 2000
    scan[100:104, 100:104] = 4000
    shown = drawing.visible(scan)
    assert shown[102, 102].tolist() == [255] * 3
    assert shown[32, 32].tolist() == [85] * 3
    assert shown[0, 127].tolist() == [0] * 3


def test_the_heading_of_circles_begins_where_the_pictures_do() -> None:
    """Circles that go beyond the frame have a margin, and the other pictures have none."""
    values = np.zeros((9, 9), np.uint8)
    values[0, [0, 8]] = values[8, 0] = 200
    number = np.array([4, 4, 1, 32])  # beyond the frame by two pixels on each side
    sample = {"image": values, "mask": values, "circle": number, "label": np.array(0)}
    look = _look("circles", (("a",), ()), 108, 11, [sample])
    assert look.margin == (2, 2)
    heading, strip = _strips("circles", [sample], look)
    tiles = _circle_tiles(sample, look)
    begin = sum(tiles[name].shape[1] + 6 for name in ("image", "mask"))
    bright = np.flatnonzero((heading[:, begin:] != drawing.PAGE).any(axis=(0, 2)))
    assert 0 <= bright[0] - 2 * 12 <= 2  # the margin at twelve times the size
    assert strip.shape[1] == heading.shape[1]


@pytest.mark.parametrize("classes", [1, 10, 17, 254])
def test_every_class_has_its_own_colour_and_the_background_is_black(classes: int) -> None:
    table = drawing.class_colours(classes)
    assert not table[0].any()
    assert len({tuple(colour) for colour in table[: classes + 1].tolist()}) == classes + 1
    assert table[1 : classes + 1].max(axis=1).min() >= 100


@pytest.mark.parametrize(
    "cones",
    [
        pytest.param(np.eye(3), id="all cones"),
        # Machado, Oliveira and Fernandes, 2009: severity 1, linear RGB
        pytest.param(
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ],
            id="no red",
        ),
        pytest.param(
            [
                [0.367322, 0.860646, -0.227968],
                [0.280085, 0.672501, 0.047413],
                [-0.01182, 0.04294, 0.968881],
            ],
            id="no green",
        ),
        pytest.param(
            [
                [1.255528, -0.076749, -0.178779],
                [-0.078411, 0.930809, 0.147602],
                [0.004733, 0.691367, 0.3039],
            ],
            id="no blue",
        ),
    ],
)
def test_ten_classes_can_be_distinguished_by_the_colour_blind_too(cones: npt.ArrayLike) -> None:
    lab = in_oklab(drawing.class_colours(10)[:11], cones)
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 9 * np.eye(11)
    assert apart.min() > 0.11  # where about 0.02 is the least that can be seen


def test_eleven_classes_and_what_is_predicted_have_colours_that_are_far_apart_and_not_grey() -> (
    None
):
    eleven = drawing.class_colours(11)[1:12]
    lab = in_oklab(np.vstack([eleven, np.array([drawing.SPOT])]), np.eye(3))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 9 * np.eye(12)
    assert apart.min() >= 0.13
    assert np.hypot(lab[:11, 1], lab[:11, 2]).min() >= 0.08


@pytest.mark.parametrize("first", [0, 1])
def test_masks_of_many_classes_have_their_numbers(first: int) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[2:22, 2:22], mask[30:36, 4:10], mask[39, 39], mask[0, 39] = 11, 11, 5, 255
    sample = {"image": np.zeros_like(mask), "mask": mask, "label": np.zeros((2, 2), np.uint8)}
    tiles = []
    for count in (drawing.APART, drawing.APART + 1):
        names = tuple(map(str, range(count)))
        look = _look("mosaics", (names, names if first else ()), 160, 11, [sample])
        tiles.append(_mosaic_tiles(sample, look))
    few, many = tiles
    assert all(np.array_equal(few[name], many[name]) for name in ("image", "overlay"))
    written = (few["mask"] != many["mask"]).any(axis=2)
    for value, regions in ((11, 2), (5, 1)):
        text = drawing.draw_text(str(value - 1 + first), 7)
        windows = np.lib.stride_tricks.sliding_window_view(many["mask"], text.shape)[:, :, 0]
        places = np.argwhere((windows == text).all(axis=(2, 3, 4)))
        assert len(places) == regions
        for top, left in places:
            written[top : top + len(text), left : left + text.shape[1]] = False
    assert not written.any()  # neither background nor what is left open has a number


def in_oklab(colours: npt.ArrayLike, cones: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Give sRGB colours (n, 3) as OKLab (Ottosson 2020), seen through a matrix of linear RGB."""
    colours = np.asarray(colours) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(cones).T, 0, 1)
    lms = seen @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    lab: npt.NDArray[np.float64] = np.cbrt(lms) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.793617785, -2.428592205, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.808675766],
        ]
    )
    return lab


def test_the_mask_of_a_mosaic_shows_each_class_in_its_own_colour() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[np.arange(10), np.arange(10)] = np.arange(10) + 1
    sample = {
        "image": (mask > 0) * np.uint8(200),
        "mask": mask,
        "label": np.arange(10, dtype=np.uint8).reshape(2, 5),
    }
    picture = decoded(sample_picture("mosaics", sample, tuple("0123456789")))
    table, scale = drawing.class_colours(10), 45  # 448 / 10 pixels
    top, left = find(picture, table[mask].repeat(scale, 0).repeat(scale, 1))
    for label in range(10):
        centre = picture[top + label * scale + scale // 2, left + label * scale + scale // 2]
        assert centre.tolist() == table[label + 1].tolist()


def circle_sample(points: list[tuple[int, int]], side: int) -> dict[str, npt.NDArray[np.generic]]:
    """Make a sample of circles whose foreground is these pixels (column, row)."""
    image = np.zeros((side, side), np.uint8)
    for column, row in points:
        image[row, column] = 200
    found = circle.enclose((image > 0)[None])
    return {
        "image": image,
        "mask": circle.raster(found, side, side)[0],
        "label": np.array(3, np.uint8),
        "circle": found[0],
        "foreground": (image > 0).astype(np.uint8),
    }


def test_the_circle_goes_through_the_centres_of_its_support_pixels() -> None:
    points, inner, scale = [(1, 1), (7, 1), (1, 7)], (3, 2), 50  # 448 / 9 pixels
    sample = circle_sample([*points, inner], 9)
    assert sample["circle"].tolist() == [4, 4, 1, 18]
    picture = decoded(sample_picture("circles", sample, tuple("0123456789")))
    top, left = find(picture, drawing.scaled(np.asarray(sample["image"], np.uint8), scale))
    left += 2 * (9 * scale + 6)  # to the third picture

    def at(column: float, row: float) -> tuple[int, ...]:
        return tuple(
            picture[top + int((row + 0.5) * scale), left + int((column + 0.5) * scale)].tolist()
        )

    assert {at(column, row) for column, row in points} == {drawing.SPOT}
    assert at(*inner) == (200, 200, 200)
    radius = math.sqrt(18)
    around = [
        (4 + radius * math.cos(turn), 4 + radius * math.sin(turn)) for turn in np.linspace(0, 6, 40)
    ]
    near = [any(math.dist(place, point) < 0.3 for point in points) for place in around]
    assert {at(*place) for place, spotted in zip(around, near, strict=True) if not spotted} == {
        drawing.ACCENT
    }
    assert at(4 + radius - 0.1, 4) == (0, 0, 0)


def test_a_circle_that_leaves_the_frame_is_drawn_whole() -> None:
    picture = decoded(
        sample_picture("circles", circle_sample([(0, 0), (8, 8)], 9), tuple("0123456789"))
    )
    rows, columns = np.nonzero((picture == drawing.ACCENT).all(axis=2))
    across = 2 * math.sqrt(32) * 50
    assert abs(np.ptp(rows) - across) < 5
    assert abs(np.ptp(columns) - across) < 5


def test_a_ring_covers_the_pixels_at_its_radius_and_no_others() -> None:
    drawn = drawing.ring(drawing.blank(41, 41), 20.5, 20.5, 15.0, 1.0, drawing.WHITE)
    distance = np.hypot(*(np.mgrid[:41, :41] - 20.0))
    assert (drawn[np.abs(distance - 15) < 0.5] == 255).all()
    assert (drawn[np.abs(distance - 15) > 1.5] == drawing.PAGE).all()


def test_a_tile_without_foreground_has_no_circle() -> None:
    picture = decoded(sample_picture("circles", circle_sample([], 9), tuple("0123456789")))
    assert not (picture == drawing.ACCENT).all(axis=2).any()


def test_a_single_pixel_has_its_circle_at_its_centre() -> None:
    picture = decoded(sample_picture("circles", circle_sample([(2, 6)], 9), tuple("0123456789")))
    assert (picture == drawing.SPOT).all(axis=2).any()


def test_an_overlay_leaves_the_background_as_it_is() -> None:
    image, mask = noise(1, 6, 6)[0], np.zeros((6, 6), np.uint8)
    mask[2:4, 2:4] = 1
    drawn = drawing.overlay(image, mask, 8, drawing.two_colours(drawing.ACCENT))
    inside = mask.repeat(8, 0).repeat(8, 1) > 0
    assert (drawn[~inside] == drawing.scaled(image, 8)[~inside]).all()
    assert (drawn[16, 16:32] == drawing.ACCENT).all()


def test_all_planes_and_numbers_of_an_unknown_task_are_drawn() -> None:
    image, mask = noise(1, 8, 8)[0], np.eye(8, dtype=np.uint8) * np.uint8(2)
    picture = decoded(
        sample_picture("outlines", {"image": image, "mask": mask, "count": np.array(5)}, ("a", "b"))
    )
    find(picture, drawing.scaled(image, 56))
    find(picture, drawing.painted(mask, 56, drawing.class_colours(2)))
    alone = decoded(sample_picture("outlines", {"depth": image, "count": np.array(5)}, ("a", "b")))
    find(alone, drawing.scaled(image, 56))
    assert sample_picture("outlines", {"count": np.array(5)}, ("a", "b"))
