"""Fetch the files of a dataset from an object store, verified, into a folder of a cache.

This runs in a process of its own, which `modeling.data.cache` starts: the library that asks the
store must not be loaded in a process that forks, as torch's DataLoader does. Credentials and the
endpoint come from the environment alone, such as AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from modeling.data.manifest import (
    NO_MANIFEST,
    REBUILD,
    ColumnInfo,
    Manifest,
    content_root,
    read_manifest,
)
from modeling.errors import (
    DamagedError,
    FormatError,
    InputError,
    MissingPackageError,
    ModelingError,
    StorageError,
    storage_errors,
)
from modeling.files import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    kind,
    make_folder,
    remove_temporaries,
    rename,
    temporary_in,
    write_atomic,
)

JOBS = 4  # files on their way at once
_FETCHES = 3  # of a file whose bytes are not the right ones
_PIECE = 1 << 22  # bytes of a file that come at a time
_SCHEMES = {"s3": "AWS_*", "gs": "GOOGLE_*", "az": "AZURE_*"}
_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9_.=+-]+(/[A-Za-z0-9_=+-][A-Za-z0-9_.=+-]*)+/?")
_SECONDS = "DATAGEN_REQUEST_SECONDS"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_STATUS = re.compile(r"status code: (\d{3})")
_DECOMPRESS = (
    "datagen pull it, datagen convert it with --compression none, and datagen push the result "
    "to another prefix"
)
_RESEND = "remove the objects there, and push the dataset again"
_AGAIN = "give the same command again: what is fetched stays"


def checked_url(url: str) -> str:
    """Return a URL without a slash at its end. Raises InputError, which never shows the URL.

    >>> checked_url("s3://bucket/mnist/")
    's3://bucket/mnist'
    """
    if not _URL.fullmatch(url):
        raise InputError(
            "not the URL of a dataset in an object store",
            expected="such as s3://bucket/prefix, without credentials or parameters",
            remedy="give credentials in the environment: docs/objects.md says how",
        )
    return url.rstrip("/")


class Remote:
    """The objects below a URL, to be read. Its methods raise StorageError."""

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        try:
            self._library: Any = importlib.import_module("obstore")
            self._errors = importlib.import_module("obstore.exceptions").BaseError
        except ImportError as error:
            raise MissingPackageError(
                "object stores need the package obstore",
                path=self.url,
                remedy="pip install --editable '.[s3]' in the checkout",
            ) from error
        self._client = self._connect()

    def read(self, path: str, limit: int) -> bytes | None:
        """Read a small object; None if there is none. Raises DamagedError beyond `limit` bytes."""
        try:
            found = self._library.get(self._client, path)
            if found.meta["size"] <= limit:
                return bytes(found.bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._explained(error, path) from None
            return None
        except self._errors as error:
            raise self._explained(error, path) from None
        raise DamagedError(
            "the object is too large", path=f"{self.url}/{path}", expected=f"at most {limit:,}"
        )

    def stream(self, path: str) -> Iterator[memoryview]:
        """Read an object piece by piece."""
        try:
            for piece in self._library.get(self._client, path).stream(min_chunk_size=_PIECE):
                yield memoryview(piece)
        except (self._errors, FileNotFoundError) as error:
            raise self._explained(error, path) from None

    def _connect(self) -> Any:
        seconds = timedelta(seconds=_number(_SECONDS, "600"))
        tries = max(int(_number("DATAGEN_REQUEST_TRIES", "8")), 1)
        scheme = self.url.partition("://")[0]
        options: dict[str, Any] = {"timeout": seconds, "connect_timeout": min(seconds, _CONNECT)}
        named = [os.environ.get(name, "") for name in _ENDPOINTS]
        if scheme == "s3" and any(one.startswith("http://") for one in named):
            options["allow_http"] = True
        retries = {"max_retries": tries - 1, "retry_timeout": seconds * tries}
        try:
            return importlib.import_module("obstore.store").from_url(
                self.url, client_options=options, retry_config=retries
            )
        except (self._errors, ValueError):
            raise StorageError(
                "the environment does not describe the store",
                path=self.url,
                expected=f"variables such as {_SCHEMES[scheme]}: docs/objects.md lists them",
            ) from None

    def _explained(self, error: Exception, path: str) -> StorageError:
        """Say what the store answered, without any text of the client."""
        status = _STATUS.search(str(error))
        found = status and status[1]
        problem, remedy = "the store answers with an error", _AGAIN
        if found in ("401", "403"):
            problem, remedy = "the store refuses access", "look at the credentials"
        elif isinstance(error, FileNotFoundError):
            problem, remedy = "there is no such object, or no such bucket", "look at the URL"
        elif found is None:
            problem = "the store does not answer, or its answer was cut off"
            if "TimedOut" in str(error):
                remedy = f"look at the network, or set {_SECONDS} to more; then {_AGAIN}"
        return StorageError(problem, path=f"{self.url}/{path}", found=found, remedy=remedy)


_CONNECT = timedelta(seconds=10)


def _number(name: str, usual: str) -> float:
    """Read a positive number from the environment, as datagen does. Raises InputError."""
    text = os.environ.get(name) or usual
    if not re.fullmatch(r"[0-9]{1,5}([.][0-9]{1,3})?", text) or float(text) <= 0:
        raise InputError(f"{name} is no number", expected="such as 60", found=text)
    return float(text)


@dataclass
class ShardFile:
    """The file of a shard: path, bytes, XXH3-128, and (column, samples, offset, root) in it."""

    path: str
    size: int
    digest: bytes
    extents: list[tuple[ColumnInfo, int, int, bytes]] = field(default_factory=list)


def fetch_into(url: str, cache: Path, expect: str | None) -> Path:
    """Fetch what is missing of the dataset at `url` into its folder in `cache`, and return that.

    The folder is named after the dataset digest and the manifest. One process fetches, others wait
    for it. A file gets its name only after its samples gave the content roots of its table. With
    `expect` the digest must be that one, and files that are there already are compared again.

    Raises FormatError where there is no dataset, DamagedError where what comes is not what was
    built, InputError and StorageError.
    """
    remote = Remote(url)
    data, tables, manifest = _described(remote)
    if expect is not None and manifest.digest != expect.lower():
        raise DamagedError(
            "not the dataset expected",
            path=remote.url,
            expected=expect.lower(),
            found=manifest.digest,
        )
    folder = cache / f"{manifest.digest}-{hashlib.sha256(data).hexdigest()[:16]}"
    make_folder(folder)
    with _alone(folder):
        files = _files(manifest, remote.url)
        places = {folder, *((folder / one.path).parent for one in files)}
        for place in [*places, *((folder / path).parent for path in tables)]:
            remove_temporaries(place)
        with ThreadPoolExecutor(JOBS) as pool:
            for _ in pool.map(lambda one: _settle(remote, folder, one, expect is not None), files):
                pass
        for path, table in tables.items():
            if not _has(folder / path, table):
                write_atomic(folder / path, table)
        if not _has(folder / MANIFEST, data):
            write_atomic(folder / MANIFEST, data)
    return folder


def _described(remote: Remote) -> tuple[bytes, dict[str, bytes], Manifest]:
    """Read the manifest and the shard tables, and check them as those of a folder are."""
    problem: ModelingError | None = None
    for _ in range(_FETCHES):  # a bit may flip on the way
        data = remote.read(MANIFEST, MAX_MANIFEST_BYTES)
        if data is None:
            raise FormatError(
                "there is no finished dataset",
                path=remote.url,
                expected=f"an object {MANIFEST}",
                found="none",
                remedy="name another prefix, or send a dataset to this one: datagen push",
            )
        read = {MANIFEST: data}
        digests = _table_digests(data)

        def content(
            path: str,
            most: int,
            read: dict[str, bytes] = read,
            digests: dict[str, str] = digests,
        ) -> bytes:
            for _ in range(_FETCHES):
                if path in read and (path == MANIFEST or _is_intact(read[path], digests.get(path))):
                    break
                read[path] = remote.read(path, most) or b""
            return read[path]

        try:
            manifest = read_manifest(remote.url, fetch=content)
            _files(manifest, remote.url)
        except InputError as error:
            error.path, error.remedy = remote.url, _DECOMPRESS
            raise
        except (DamagedError, FormatError) as error:
            problem = error
        else:
            del read[MANIFEST]
            return data, read, manifest
    assert problem is not None
    problem.path = remote.url
    if problem.remedy in (NO_MANIFEST, REBUILD):
        problem.remedy = _RESEND
    raise problem


def _table_digests(data: bytes) -> dict[str, str]:
    """List the digests of shard tables by path, as a manifest says; {} if it is damaged."""
    try:
        tasks = json.loads(data)["tasks"]
        tables = [split["table"] for splits in tasks.values() for split in splits.values()]
        return {str(table["path"]): str(table["digest"]) for table in tables}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # the checks of the manifest say what is wrong


def _is_intact(data: bytes, digest: str | None) -> bool:
    """Return whether a table has its digest; of one without, the checks of the manifest say so."""
    return digest is None or xxhash.xxh3_128_hexdigest(data) == digest


def _files(manifest: Manifest, url: str) -> list[ShardFile]:
    """List the files of all shards, the largest first.

    Raises DamagedError where two columns that share a file do not agree on it.
    """
    found: dict[str, ShardFile] = {}
    for info in manifest.splits.values():
        for column, row in zip(info.columns, info.table, strict=True):
            for number, (samples, shard) in enumerate(zip(info.shards(), row, strict=True)):
                path, size = column.path.format(shard=number), int(shard["file_bytes"])
                digest = shard["file_digest"].tobytes()
                one = found.setdefault(path, ShardFile(path, size, digest))
                if (one.size, one.digest) != (size, digest):
                    raise DamagedError(
                        "the shard table contradicts itself", path=f"{url}/{path}", remedy=_RESEND
                    )
                extent = (column, len(samples), int(shard["offset"]), shard["root"].tobytes())
                one.extents.append(extent)
    return sorted(found.values(), key=lambda one: -one.size)


def _settle(remote: Remote, folder: Path, wanted: ShardFile, compare: bool) -> None:
    """Have a file in its place: what is there with the right size stays, compared if asked."""
    path = folder / wanted.path
    make_folder(path.parent)
    with storage_errors(path):
        is_there = kind(path) == "a file" and path.stat().st_size == wanted.size
        if is_there and not (compare and _other(path, wanted)):
            return
    problem: ModelingError | None = None
    for _ in range(_FETCHES):
        draft = temporary_in(path.parent)
        try:
            problem = _fill(remote, draft, wanted)
            if problem is None:
                with storage_errors(path, only=True):
                    rename(draft, path)
                return
        finally:
            draft.unlink(missing_ok=True)
    assert problem is not None
    raise problem


def _fill(remote: Remote, draft: Path, wanted: ShardFile) -> ModelingError | None:
    """Fetch a file into a draft; return what is wrong with it. Removes a draft that is wrong."""
    size, pieces = 0, remote.stream(wanted.path)
    place = f"{remote.url}/{wanted.path}"
    with storage_errors(draft), draft.open("xb") as file:
        while True:
            try:
                piece = next(pieces, None)
            except StorageError as error:
                return error
            if piece is None:
                break
            size += len(piece)
            if size > wanted.size:
                break
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    other = "the size" if size != wanted.size else _other(draft, wanted)
    if other is None:
        return None
    return DamagedError(
        "the object is not what was built", path=place, found=f"another content of {other}"
    )


def _other(path: Path, wanted: ShardFile) -> str | None:
    """Name the first column whose samples do not give their content root; None if all is right.

    The digest of the file covers what is between the samples.
    """
    with path.open("rb") as file:
        if hashlib.file_digest(file, xxhash.xxh3_128).digest() != wanted.digest:
            return "the file"
    for column, samples, offset, root in wanted.extents:
        rows = np.memmap(path, np.dtype(column.dtype), "r", offset, (samples, *column.shape))
        if content_root(rows) != root:
            return column.name
    return None


def _has(path: Path, data: bytes) -> bool:
    with storage_errors(path):
        return kind(path) == "a file" and path.read_bytes() == data


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only process that fetches into a folder while the body runs; wait for another one.

    Where the file system locks only files that are open for writing, as NFS does, the lock is on a
    file beside the folder, which stays.
    """
    with ExitStack() as held:
        try:
            _lock(folder, os.O_RDONLY, held)
        except OSError:
            beside = folder.with_name(f"{folder.name}.lock")
            try:
                _lock(beside, os.O_RDWR | os.O_CREAT, held)
            except OSError as error:
                raise StorageError(
                    f"no lock can be taken: {error.strerror}",
                    path=beside,
                    remedy="keep the cache in another place: --cache (cache=) or MODELING_CACHE",
                ) from error
        yield


def _lock(path: Path, flags: int, held: ExitStack) -> None:
    """Lock a file or folder until `held` is closed. Raises OSError."""
    descriptor = os.open(path, flags, 0o666)
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def main() -> None:
    """Fetch what standard input asks for, as JSON; print the folder, or the error, as JSON."""
    wanted = json.load(sys.stdin)
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        folder = fetch_into(wanted["url"], Path(wanted["cache"]), wanted["expect"])
        answer = {"folder": str(folder)}
    except ModelingError as error:
        names = ("problem", "path", "expected", "found", "remedy")
        plain = {name: getattr(error, name) for name in names}
        answer = {name: str(value) for name, value in plain.items() if value is not None}
        answer["error"] = type(error).__name__
    print(json.dumps(answer))  # noqa: T201  (to the process that started this one)


def _end_with(parent: int) -> None:
    """End this process when the one that started it has been killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
