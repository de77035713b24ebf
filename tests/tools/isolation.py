"""A place of its own for each test: an empty working folder, an empty home, and an environment that
is known.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[2]

# What the interpreter, the linker, the compiler, the libraries of mathematics and the tools of
# testing need.
KEPT = (
    *("PATH", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
    *("TMPDIR", "TEMP", "TMP", "USER", "LOGNAME", "CC", "CXX", "CPATH", "LIBRARY_PATH", "SDKROOT"),
)
KEPT_FAMILIES = (
    *(
        "LD_",
        "DYLD_",
        "NIX_",
        "OPENBLAS_",
        "OMP_",
        "KMP_",
        "MKL_",
        "NVPL_",
        "ATEN_",
        "CUDA_",
        "NVIDIA_",
    ),
    *(
        "PYTEST_",
        "HYPOTHESIS_",
        "COVERAGE_",
        "COV_CORE_",
        "MUTANT_",
        "PLAYWRIGHT_",
        "TORCHINDUCTOR_",
    ),
)


def known(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Keep of an environment what running needs, and fix the rest; relative paths are those of
    `folder`.

    Nothing that the packages, their libraries or a terminal heed comes through: no DATAGEN_*, no
    XDG_*, no ranks, no colours, no widths, no locale but the one named here. Subprocesses find the
    code that the tests lie beside.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name in KEPT or name.startswith(KEPT_FAMILIES)
    }
    given = [
        str(folder / path) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path
    ]
    browsers = [place for place in _places_of_playwright(environment) if place.is_dir()]
    return {
        **({"PLAYWRIGHT_BROWSERS_PATH": str(browsers[0])} if browsers else {}),
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *given]),
        "LANG": "C.UTF-8",
        # Git reads a checkout of another user, as it may where the user's own settings say so.
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


@contextmanager
def environment_of(wanted: Mapping[str, str]) -> Iterator[None]:
    """Let the process have these variables; in the end those of before, whatever the body sets."""
    before = dict(os.environ)
    _become(wanted)
    try:
        yield
    finally:
        _become(before)


@contextmanager
def own_place(parent: Path) -> Iterator[Path]:
    """Work in an empty folder below `parent`, with an empty home beside it; in the end all is as
    before.
    """
    place, here = Path(mkdtemp(dir=parent)), Path.cwd()
    work, home = place / "work", place / "home"
    work.mkdir()
    home.mkdir()
    with environment_of({**os.environ, "HOME": str(home)}):
        os.chdir(work)
        try:
            yield work
        finally:
            os.chdir(here)
            shutil.rmtree(place, ignore_errors=True)


def _become(wanted: Mapping[str, str]) -> None:
    """Change what differs; pytest itself says in PYTEST_CURRENT_TEST where it is."""
    for name in os.environ.keys() - wanted.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value and name != "PYTEST_CURRENT_TEST":
            os.environ[name] = value


def _places_of_playwright(environment: Mapping[str, str]) -> list[Path]:
    """Folders in which Playwright keeps its browsers in a user's home."""
    home = environment.get("HOME")
    below = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return [Path(home, below, "ms-playwright")] if home else []
