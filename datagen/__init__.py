"""Exact, provable datasets from labelled digit images; the library under the `datagen` command."""

from datagen import layout

__all__ = ["__version__"]

__version__ = layout.VERSION
