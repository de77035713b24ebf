"""Exports of picture files: png, coco, yolo and nnunet."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datagen.exports.base import (
    IGNORE,
    MASKS,
    PIECES,
    Array,
    Chosen,
    InstanceFormat,
    MaskFormat,
    Part,
    PictureFormat,
    UInt8,
    by_task,
    column_of,
    encode_mask,
    encode_picture,
    piece_name,
    plain,
    require_known,
    to_json,
)
from datagen.exports.outlines import bounding_box, polygons, run_lengths
from datagen.split import Column, Split

_TEST = "test"  # the split that nnU-Net does not train on


class Png(PictureFormat):
    """A tree of PNG files, masks indexed by class, and one CSV table a split.

    `TASK/SPLIT/image/00000007.png`, `TASK/SPLIT/mask/00000007.png`, `TASK/SPLIT.csv`: the table has
    the paths and all values that are no pictures, an array as numbered columns, a circle as
    `circle_x`, `circle_y`, `circle_den` and `circle_r2`.
    """

    def write(self, part: Part, out: Path) -> None:
        """Write the pictures of a part, and its rows of the table."""
        split, masks = part.split, _masks(part.split)
        folder = out / split.task / split.name
        for name in ("image", *masks):
            (folder / name).mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        for number, values in part.each(*(column.name for column in split.columns)):
            file = f"{number:08d}.png"
            (folder / "image" / file).write_bytes(encode_picture(values["image"]))
            for name in masks:
                (folder / name / file).write_bytes(encode_mask(values[name], part.labels))
            paths = [f"{split.task}/{split.name}/{name}/{file}" for name in ("image", *masks)]
            rows.writerow([number, *paths, *_flat(values, masks)])
        (out / PIECES / f"{part.name}.csv").write_text(text.getvalue(), "utf-8")

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:
        """Join the rows of each split below a heading."""
        for split in (one.split for one in chosen):
            masks = _masks(split)
            names = ["index", "image", *masks]
            for column in split.columns:
                if column.name not in ("image", *masks):
                    names += _headings(split.task, column)
            head = ",".join(names) + "\n"
            _join(out, split, ".csv", out / f"{split.task}/{split.name}.csv", head, "", "")


def _headings(task: str, column: Column) -> list[str]:
    """Name the columns of a table that hold the values of a column, an array in several."""
    if (task, column.name) == ("circles", "circle"):
        return [f"circle_{part}" for part in ("x", "y", "den", "r2")]  # as docs/format.md
    count = int(np.prod(column.shape))
    return [f"{column.name}_{at}" for at in range(count)] if column.shape else [column.name]


class Coco(InstanceFormat):
    """COCO's annotations of instances: exact run lengths, areas, boxes and categories.

    `TASK/SPLIT/00000007.png` and `TASK/annotations/instances_SPLIT.json`. An image of `foreground`
    has one instance of each class, one of `circles` its circle in the class of the image, and a
    mosaic one of each class in each tile. Pixels to be ignored are in none.
    """

    def write(self, part: Part, out: Path) -> None:
        """Write the pictures of a part, and its entries of the annotations."""
        split = part.split
        folder = out / split.task / split.name
        folder.mkdir(parents=True, exist_ok=True)
        pieces = [out / PIECES / f"{part.name}.{kind}" for kind in ("images", "annotations")]
        with pieces[0].open("w", encoding="utf-8") as images, pieces[1].open("w") as annotations:
            for number, values in part.each(*_needed(part, "image")):
                file = f"{number:08d}.png"
                (folder / file).write_bytes(encode_picture(values["image"]))
                height, width = values["image"].shape[:2]
                facts = {"id": number, "file_name": file, "height": height, "width": width}
                images.write(f"{to_json(facts)}\n")
                for at, (category, mask) in enumerate(_instances(part, values)):
                    entry = {
                        "id": number * _MOST + at + 1,
                        "image_id": number,
                        "category_id": category,
                        "segmentation": {"counts": run_lengths(mask), "size": [height, width]},
                        "area": int(np.count_nonzero(mask)),
                        "bbox": list(bounding_box(mask)),
                        "iscrowd": 0,
                    }
                    annotations.write(f"{to_json(entry)}\n")

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:
        """Join the annotations of each split."""
        for one in chosen:
            split = one.split
            path = out / split.task / "annotations" / f"instances_{split.name}.json"
            path.parent.mkdir(exist_ok=True)
            names = _categories(one)
            listed = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
            head = f'{{"categories":{to_json(listed)},"images":[\n'
            _join(out, split, ".images", path, head, ",", "],")
            with path.open("a", encoding="utf-8") as file:
                file.write('"annotations":[\n')
            _join(out, split, ".annotations", path, None, ",", "]}\n")


class Yolo(InstanceFormat):
    """Segments for YOLO: `TASK/images/SPLIT/*.png`, `TASK/labels/SPLIT/*.txt`, `TASK/data.yaml`.

    A line of a label is a class and the corners of a polygon, in shares of width and height. The
    polygons follow the edges of pixels, so that exactly the mask's pixels lie in them. Instances
    are those of `Coco`; one in several pieces has a line for each.
    """

    def write(self, part: Part, out: Path) -> None:
        """Write the pictures and the labels of a part."""
        split = part.split
        images, texts = (out / split.task / kind / split.name for kind in ("images", "labels"))
        for folder in (images, texts):
            folder.mkdir(parents=True, exist_ok=True)
        for number, values in part.each(*_needed(part, "image")):
            (images / f"{number:08d}.png").write_bytes(encode_picture(values["image"]))
            height, width = values["image"].shape[:2]
            lines = [
                " ".join(
                    [str(category - 1), *(f"{x / width:.7g} {y / height:.7g}" for x, y in one)]
                )
                for category, mask in _instances(part, values)
                for one in polygons(mask)
            ]
            (texts / f"{number:08d}.txt").write_text("".join(f"{line}\n" for line in lines))

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:
        """Write the file that names splits and classes, for each task."""
        for task, mine in by_task(chosen).items():
            folders = [f"{one.split.name}: images/{one.split.name}" for one in mine]
            lines = [*folders, "names:"]
            names = _categories(mine[0])
            lines += [f"  {number}: {to_json(name)}" for number, name in enumerate(names)]
            (out / task / "data.yaml").write_text("\n".join(lines) + "\n", "utf-8")


class NnUnet(MaskFormat):
    """Raw data of nnU-Net, version 2: a folder a task, such as `Dataset001_foreground`.

    Images of train and val are in `imagesTr`, their masks in `labelsTr`, and `splits_final.json`
    keeps val for validation; those of test are in `imagesTs` and `labelsTs`. Pixels to be ignored
    get the label after the last class, as nnU-Net wants it, instead of 255.
    """

    def problems(self, one: Chosen) -> list[str]:
        """List also classes with names that nnU-Net gives a meaning of its own."""
        taken = [name for name in one.labels.classes if name in ("background", "ignore")]
        words = [f"{one.split.task}: a class named {name}, which nnU-Net needs" for name in taken]
        return super().problems(one) + words

    def write(self, part: Part, out: Path) -> None:
        """Write the pictures and the masks of a part."""
        split, plane = part.split, part.labels.plane
        root, kind = out / _nnunet_folder(split.task), "Ts" if split.name == _TEST else "Tr"
        images, masks = root / f"images{kind}", root / f"labels{kind}"
        for folder in (images, masks):
            folder.mkdir(parents=True, exist_ok=True)
        for number, values in part.each("image", plane):
            case = f"{split.name}_{number:08d}"
            (images / f"{case}_0000.png").write_bytes(encode_picture(values["image"]))
            mask = values[plane]
            require_known(mask, part)
            if (mask == IGNORE).any():
                mask = np.where(mask == IGNORE, len(part.labels.classes) + 1, mask)
            (masks / f"{case}.png").write_bytes(encode_picture(mask.astype(np.uint8)))

    def finish(self, chosen: Sequence[Chosen], out: Path) -> None:
        """Write dataset.json and splits_final.json of each task."""
        for task, mine in by_task(chosen).items():
            counts = {one.split.name: one.split.count for one in mine}
            cases = {
                name: [f"{name}_{number:08d}" for number in range(count)]
                for name, count in counts.items()
                if name != _TEST
            }
            first, labels = mine[0].split, mine[0].labels
            image, classes = column_of(first, "image"), labels.classes
            has_bands = image is not None and len(image.shape) == 3
            named = {"background": 0, **{name: at + 1 for at, name in enumerate(classes)}}
            if labels.plane == "classes" or task == "mosaics":
                named["ignore"] = len(classes) + 1
            facts = {
                "channel_names": {
                    str(at): name
                    for at, name in enumerate(("R", "G", "B") if has_bands else ("grey",))
                },
                "labels": named,
                "numTraining": sum(map(len, cases.values())),
                "file_ending": ".png",
            }
            folder = out / _nnunet_folder(task)
            (folder / "dataset.json").write_text(to_json(facts) + "\n", "utf-8")
            fold = {"train": cases.get("train", []), "val": cases.get("val", [])}
            (folder / "splits_final.json").write_text(to_json([fold]) + "\n", "utf-8")


_MOST = 1 << 21  # instances of an image are fewer: classes times tiles


def _nnunet_folder(task: str) -> str:
    """Name the folder of a task: nnU-Net knows datasets by their numbers, from 1 to 999."""
    known = ("foreground", "circles", "mosaics")
    number = known.index(task) + 1 if task in known else 4 + zlib.crc32(task.encode()) % 996
    return f"Dataset{number:03d}_{task}"


def _masks(split: Split) -> list[str]:
    return [name for name in MASKS if column_of(split, name)]


def _needed(part: Part, *names: str) -> list[str]:
    """List the columns that instances follow from, with these."""
    label = column_of(part.split, "label")
    return [*names, part.labels.plane, *(["label"] if label is not None else [])]


def _categories(one: Chosen) -> tuple[str, ...]:
    """Name the categories of instances, numbered from 1."""
    return one.labels.of_images if one.split.task == "circles" else one.labels.classes


def _instances(part: Part, values: Mapping[str, Any]) -> Iterator[tuple[int, UInt8]]:
    """Yield the category and the mask of each instance of a sample."""
    mask, task = values[part.labels.plane], part.split.task
    require_known(mask, part)
    if task == "circles":
        if mask.any():
            yield int(values["label"]) + 1, mask
        return
    for tile in _tiles(mask, values.get("label") if task == "mosaics" else None):
        shown = mask * tile
        for category in np.unique(shown).tolist():
            if category not in (0, IGNORE):
                yield category, (shown == category).astype(np.uint8)


def _tiles(mask: UInt8, grid: Array | None) -> Iterator[UInt8]:
    """Yield a mask of each tile of a mosaic; of all pixels where there is no grid."""
    if grid is None or grid.ndim != 2:
        yield np.ones_like(mask)
        return
    height, width = mask.shape[0] // grid.shape[0], mask.shape[1] // grid.shape[1]
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            tile = np.zeros_like(mask)
            tile[row * height : (row + 1) * height, column * width : (column + 1) * width] = 1
            yield tile


def _flat(values: Mapping[str, Any], masks: Sequence[str]) -> Iterator[Any]:
    for name, value in values.items():
        if name not in ("image", *masks):
            yield from np.asarray(plain(value)).reshape(-1).tolist()


def _join(
    out: Path, split: Split, ending: str, path: Path, head: str | None, between: str, tail: str
) -> None:
    """Join the pieces of all parts of a split, line by line; without `head`, append to the file."""
    is_first = True
    with path.open("a" if head is None else "w", encoding="utf-8", newline="\n") as file:
        file.write(head or "")
        for shard in range(split.shards):
            piece = out / PIECES / f"{piece_name(split, shard)}{ending}"
            with piece.open(encoding="utf-8") as lines:
                for line in lines:
                    if between and not is_first:
                        file.write(between)
                    file.write(line)
                    is_first = False
        file.write(tail)
