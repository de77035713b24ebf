"""Give each test an empty working folder, an empty home and a known environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

ROOT = Path(__file__).resolve().parents[2]

# Variables that the interpreter, linker, compiler, mathematical libraries and test tools need.
KEPT = (
    *("PATH", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPYCACHEPREFIX"),
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
    """Keep the variables that running needs, and fix the rest; paths are relative to `folder`.

    Variables that the packages, their libraries or a terminal read are dropped: DATAGEN_*, XDG_*,
    ranks, colours, widths, and any locale except the one set here. Subprocesses import the code of
    this checkout, and may keep its bytecode, which saves each the time to compile.
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
        # Let Git read a checkout that belongs to another user.
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }


@contextmanager
def environment_of(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set these variables alone, and restore the old ones in the end, whatever the body sets."""
    before = dict(os.environ)
    _become(wanted)
    try:
        yield
    finally:
        _become(before)


@contextmanager
def own_place(parent: Path) -> Iterator[Path]:
    """Work in an empty folder below `parent`, with an empty home beside it; restore both after."""
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
    """Change the variables that differ; pytest itself sets PYTEST_CURRENT_TEST."""
    for name in os.environ.keys() - wanted.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value and name != "PYTEST_CURRENT_TEST":
            os.environ[name] = value


def _places_of_playwright(environment: Mapping[str, str]) -> list[Path]:
    """List the folders in which Playwright keeps its browsers in a user's home."""
    home = environment.get("HOME")
    below = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return [Path(home, below, "ms-playwright")] if home else []
