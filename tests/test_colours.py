"""Compare the colours of classes in the pictures of both packages."""

from __future__ import annotations

import pytest


def test_a_class_has_the_same_colour_in_the_pictures_of_both_packages() -> None:
    from datagen.drawing import SPOT
    from datagen.drawing import class_colour as in_datagen
    from datagen.sources.base import MAX_CLASSES

    drawing = pytest.importorskip("modeling.drawing")
    labels = range(MAX_CLASSES)
    assert list(map(drawing.class_colour, labels)) == list(map(in_datagen, labels))
    assert drawing.CYAN == SPOT  # what is predicted, which is far from the classes
