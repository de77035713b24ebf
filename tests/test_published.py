"""Test that the packaged recipes give the datasets with the published digests.

These digests may change only together with the version of the format, or with what a packaged
recipe asks for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from datagen import recipe
from datagen.builder import build
from datagen.verifier import verify

PUBLISHED = {
    "fashion-mnist": "ef2edabb6ce0c67f2eb12c2344eec3cb0c77cae7551a5eb62f62022ad5f1d9a1",
    "mnist": "ec6156a4c21e189f8c6331aa52b58215265d4f7d3c598ed5ef7372e32ff04b5e",
    "strokes": "eda33d7f316813deb9e44bacc682e920052b50a0639c83382c20394b3b7593d0",
}


def test_every_packaged_recipe_has_its_published_digest() -> None:
    assert {name: recipe.known_digest(recipe.load(name)) for name in recipe.packaged()} == PUBLISHED


@pytest.mark.long
def test_the_recipe_of_mnist_builds_the_published_dataset(
    mnist_folder: Path, tmp_path: Path
) -> None:
    build_and_prove("mnist", mnist_folder, tmp_path / "mnist")


@pytest.mark.long
def test_the_recipe_of_strokes_builds_the_published_dataset(tmp_path: Path) -> None:
    build_and_prove("strokes", None, tmp_path / "strokes")


def build_and_prove(name: str, directory: Path | None, out: Path) -> None:
    """Build a packaged recipe, and check its published digest and that it has no problem."""
    built = build(recipe.load(name), out, directory=directory, workers=2)
    assert built.manifest is not None
    assert built.manifest.digest == PUBLISHED[name]
    assert verify(out, source_dir=directory, workers=2).problems == ()
