"""Exact, verifiable datasets from labelled digit images.

>>> import datagen
>>> data = datagen.build("strokes", "strokes", mosaics=(300, 20, 20))
>>> data["mosaics"]["train"]["image"][:16].shape
(16, 56, 56)
>>> datagen.verify("strokes", quick=True).problems
()

The functions are `build`, `open`, `convert`, `verify`, `sample`, `samples`, `export`, `push` and
`pull`. Modules such as `datagen.sources` are imported when they are first used: `import datagen`
loads nothing heavy.
"""

from __future__ import annotations

from datagen import layout

TYPE_CHECKING = False  # as in typing, which takes a while to import
if TYPE_CHECKING:
    from datagen import api as api
    from datagen import builder as builder
    from datagen import card as card
    from datagen import dataset as dataset
    from datagen import diff as diff
    from datagen import download as download
    from datagen import errors as errors
    from datagen import estimate as estimate
    from datagen import exports as exports
    from datagen import files as files
    from datagen import lookup as lookup
    from datagen import manifest as manifest
    from datagen import objects as objects
    from datagen import preview as preview
    from datagen import recipe as recipe
    from datagen import rederive as rederive
    from datagen import report as report
    from datagen import sources as sources
    from datagen import split as split
    from datagen import survey as survey
    from datagen import target as target
    from datagen import tasks as tasks
    from datagen import transfer as transfer
    from datagen import upload as upload
    from datagen import verifier as verifier
    from datagen import writer as writer
    from datagen.api import build, convert, export, pull, push, sample, samples, verify
    from datagen.opened import open_dataset

    open = open_dataset  # noqa: A001  (as in gzip and tarfile)

# without open: an import of all names would replace Python's own
__all__ = [
    "__version__",
    "build",
    "convert",
    "export",
    "pull",
    "push",
    "sample",
    "samples",
    "verify",
]

__version__ = layout.VERSION

_FUNCTIONS = {
    "build": ("datagen.api", "build"),
    "convert": ("datagen.api", "convert"),
    "export": ("datagen.api", "export"),
    "open": ("datagen.opened", "open_dataset"),
    "pull": ("datagen.api", "pull"),
    "push": ("datagen.api", "push"),
    "sample": ("datagen.api", "sample"),
    "samples": ("datagen.api", "samples"),
    "verify": ("datagen.api", "verify"),
}


def __getattr__(name: str) -> object:
    """Import a public function or a module of the package when it is first used (PEP 562)."""
    from importlib import import_module

    if name in _FUNCTIONS:
        module, attribute = _FUNCTIONS[name]
        return getattr(import_module(module), attribute)
    if not name.startswith("_"):
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public functions and the modules of the package."""
    from pkgutil import iter_modules

    return sorted({*__all__, *_FUNCTIONS, *(module.name for module in iter_modules(__path__))})
