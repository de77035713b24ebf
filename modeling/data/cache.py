"""Keep datasets of object stores in a cache of verified files, and open them from there.

The folder of a dataset in the cache is one like any other for this package. It is fetched by a
process that ends before anything else begins: see `modeling.data.remote`. Nothing is ever removed
from a cache but by its owner, and a file that is replaced stays readable where it is mapped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from os import PathLike
from pathlib import Path

from modeling import errors
from modeling.data.manifest import read_manifest
from modeling.errors import DamagedError, InputError, ModelingError, StorageError, storage_errors
from modeling.files import absolute, is_url

_CODE = "import sys; sys.path[:] = sys.argv[1:]; from modeling.data.remote import main; main()"


def default_cache() -> Path:
    """Return $MODELING_CACHE, or else `modeling` in $XDG_CACHE_HOME or ~/.cache.

    Raises InputError for a user without a home.
    """
    named = os.environ.get("MODELING_CACHE")
    if named:
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(caches) if caches else Path.home() / ".cache") / "modeling"
    except RuntimeError:
        raise InputError(
            "this user has no home folder to keep datasets in",
            remedy="name a folder for them: --cache (cache=) or MODELING_CACHE",
        ) from None


def fetch_dataset(
    dataset: PathLike[str] | str, *, cache: Path | str | None = None, expect: str | None = None
) -> Path:
    """Fetch what is missing of a dataset at a URL into the cache, and return its folder there.

    A dataset that is in a folder stays where it is, and only its digest is compared.
    Of eight processes that ask at once, one fetches, and the others wait. A file gets its name only
    after its samples gave the content roots that the dataset digest stands for. With `expect` the
    digest must be that one, and files that were there are compared again, and fetched again if they
    are not the same.

    Raises FormatError where there is no dataset, InputError for compressed or bad arguments,
    DamagedError where the dataset is not the one expected or an object is not what was built, and
    StorageError.

    >>> fetch_dataset("data/mnist").as_posix()
    'data/mnist'
    """
    _require_digest(expect)
    if not is_url(dataset):
        folder = Path(dataset)
        found = None if expect is None else read_manifest(folder).digest
        if expect is not None and found != expect.lower():
            raise DamagedError(
                "not the dataset expected", path=folder, expected=expect.lower(), found=found
            )
        return folder
    place = absolute(default_cache() if cache is None else cache)
    wanted = {"url": str(dataset), "cache": str(place), "expect": expect}
    command = [sys.executable, "-c", _CODE, *(str(absolute(one or ".")) for one in sys.path)]
    with storage_errors(place):
        ran = subprocess.run(
            command, input=json.dumps(wanted), stdout=subprocess.PIPE, text=True, check=False
        )
    try:
        answer = json.loads(ran.stdout)
    except ValueError:
        raise StorageError(
            "the process that fetches the dataset died",
            path=place,
            found=f"exit status {ran.returncode}",
            remedy="give the same command again: what is fetched stays",
        ) from None
    if "error" in answer:
        kind: type[ModelingError] = getattr(errors, answer.pop("error"))
        raise kind(answer.pop("problem"), **answer)
    return Path(answer["folder"])


def _require_digest(expect: str | None) -> None:
    if expect is not None and not re.fullmatch("[0-9a-fA-F]{64}", expect):
        raise InputError(
            "not a dataset digest", expected="64 hexadecimal digits", found=repr(expect)
        )
