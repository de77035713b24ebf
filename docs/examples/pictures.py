"""Make the pictures of docs/own-images.md: draw two kinds, and gather scans that packages ship.

    python docs/examples/pictures.py strokes photos     # PNG files in colour, of 16 bits
    python docs/examples/pictures.py blobs blobs.npz    # arrays as MedMNIST publishes them
    python docs/examples/pictures.py scans scans        # NIfTI volumes of 16 bits

A number after that is how many strokes or blobs to draw, or the factor of the scans.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from datagen.sources import picture_files, strokes

Array = npt.NDArray[Any]

INKS = np.array([(255, 224, 160), (160, 255, 224), (224, 160, 255)], np.uint32)  # red, green, blue
GROUND, CELL = np.array([236, 214, 224]), np.array([118, 72, 150])  # of blobs


def lifted(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """Colour grey images and lift them to 16 bits: uint8 (n, H, W) -> uint16 (n, H, W, 3).

    Image i has the ink i mod 3. Where it is v, a band is 257 ((v c + 127) // 255), c being that
    band of the ink.

    >>> lifted(np.array([[[255, 128, 0]]], np.uint8))[0, 0].tolist()
    [[65535, 57568, 41120], [32896, 28784, 20560], [0, 0, 0]]
    """
    inks = INKS[np.arange(len(grey)) % len(INKS)][:, None, None]
    return (257 * ((grey[..., None] * inks + 127) // 255)).astype(np.uint16)


def write_strokes(folder: Path, count: int = 3000) -> None:
    """Write strokes as PNG files, in a folder for each class."""
    grey, labels = strokes.draw(np.arange(count, dtype=np.uint64))
    for number, (image, label) in enumerate(zip(lifted(grey), labels, strict=True)):
        path = folder / str(label) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])  # OpenCV has blue first


def blobs(count: int, seed: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw dark cells on a light ground: uint8 (n, 28, 28, 3), and their classes, (n, 1).

    Class 0 is round, 1 long, 2 of two lobes. Places, sizes and stains differ.
    """
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    y, x = np.mgrid[:28, :28] - 13.5
    images = np.empty((count, 28, 28, 3))
    for image, label in zip(images, labels, strict=True):
        turn, size = chance.uniform(0, np.pi), chance.uniform(4.5, 7.5)
        down, right = y - chance.uniform(-3, 3), x - chance.uniform(-3, 3)
        along = right * np.cos(turn) + down * np.sin(turn)
        across = down * np.cos(turn) - right * np.sin(turn)
        shapes = {
            0: np.hypot(along, across) - size,
            1: np.hypot(along / 1.5, across * 1.6) - size,
            2: np.hypot(abs(along) - 0.7 * size, across) - 0.75 * size,
        }
        inside = np.clip(0.5 - shapes[int(label)], 0, 1)[..., None]  # soft by one pixel
        stain = CELL + chance.normal(0, 12, 3) + chance.normal(0, 2, (28, 28, 1))
        image[:] = inside * stain + (1 - inside) * (GROUND + chance.normal(0, 4, 3))
    drawn = np.clip(np.rint(images), 0, 255).astype(np.uint8)
    return drawn, labels.astype(np.uint8)[:, None]


def write_blobs(path: Path, count: int = 3000) -> None:
    """Write blobs of three splits, under the names that MedMNIST's files have."""
    arrays = {}
    for seed, (split, share) in enumerate({"train": 8, "val": 1, "test": 1}.items()):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = blobs(count * share // 10, seed)
    np.savez_compressed(path, **arrays)


def gather_scans(folder: Path, factor: int = 0) -> None:
    """Write scans that pydicom and nibabel ship as NIfTI volumes of 16 bits, one a patient.

    The least value is taken off, as some are negative, and the rest is multiplied by the factor, or
    by the largest one that fits 16 bits. Masks by Otsu's threshold stay as they are.
    """
    nibabel: Any = import_module("nibabel")
    dicom = Path(str(import_module("pydicom").__file__)).parent / "data/test_files"
    nifti = Path(nibabel.__file__).parent / "tests/data"
    both = nibabel.load(nifti / "example4d.nii.gz").dataobj.get_unscaled()  # two volumes
    anatomical = nibabel.load(nifti / "anatomical.nii").dataobj.get_unscaled()
    scans = {"example4d": both[..., 0], "anatomical": anatomical}
    shipped = {"ct": "CT_small", "mr": "MR_small", "abdomen": "examples_overlay"}
    for name, file in shipped.items():
        image = picture_files.dicom((dicom / f"{file}.dcm").read_bytes(), offset=1024)
        scans[name] = image[..., None]
    folder.mkdir(parents=True, exist_ok=True)
    for name, scan in scans.items():
        levels = np.asarray(scan, np.int64) - int(scan.min())
        levels *= factor or 65_535 // int(levels.max())
        volume = nibabel.Nifti1Image(levels.astype(np.uint16), np.eye(4))
        volume.to_filename(folder / f"{name}.nii")


MAKERS = {"strokes": write_strokes, "blobs": write_blobs, "scans": gather_scans}

if __name__ == "__main__":
    kind, place, *number = sys.argv[1:]
    MAKERS[kind](Path(place), *map(int, number))
