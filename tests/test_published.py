"""The packaged recipes give the datasets whose digests are published: whoever has other bytes has another dataset.

These digests may change only together with the version of the format, or with what a packaged recipe asks for.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datagen import recipe
from datagen.build import build
from datagen.verify import verify

PUBLISHED = {
    "fashion-mnist": "ef2edabb6ce0c67f2eb12c2344eec3cb0c77cae7551a5eb62f62022ad5f1d9a1",
    "mnist": "ec6156a4c21e189f8c6331aa52b58215265d4f7d3c598ed5ef7372e32ff04b5e",
    "strokes": "eda33d7f316813deb9e44bacc682e920052b50a0639c83382c20394b3b7593d0",
}


def test_every_packaged_recipe_has_its_published_digest() -> None:
    assert {name: recipe.known_digest(recipe.load(name)) for name in recipe.packaged()} == PUBLISHED


@pytest.mark.long
@pytest.mark.parametrize("name", ["mnist", "strokes"])
def test_a_packaged_recipe_builds_the_published_dataset(name: str, tmp_path: Path) -> None:
    directory = os.environ.get("DATAGEN_SOURCE_DIR")
    if name == "mnist" and not directory:
        pytest.skip("DATAGEN_SOURCE_DIR is not set: no MNIST")
    built = build(recipe.load(name), tmp_path / name, directory=Path(directory) if directory else None, workers=2)
    assert built.manifest is not None
    assert built.manifest.digest == PUBLISHED[name]
    assert verify(tmp_path / name, directory=Path(directory) if directory else None, workers=2).problems == ()
