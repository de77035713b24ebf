"""Reach files of a dataset in an object store, by a URL such as s3://bucket/prefix.

Credentials and the endpoint come from the environment alone, as AWS_ACCESS_KEY_ID and
AWS_ENDPOINT_URL do. No message holds them: it is made of the status and the code of an answer.
A request that fails in passing is sent again, and what a store says of a create is compared.
"""

from __future__ import annotations

import importlib
import itertools
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from os import PathLike
from typing import Any, TypeGuard, TypeVar

from datagen.errors import DamagedError, InputError, StorageError, installs

T = TypeVar("T")

MAX_OBJECT_BYTES = 5 << 30  # that one request may send to S3

PROBE = ".datagen-probe-"
SCHEMES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL",
    "gs": "GOOGLE_SERVICE_ACCOUNT",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_SECONDS, _TRIES = "DATAGEN_REQUEST_SECONDS", "DATAGEN_REQUEST_TRIES"
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_LIST_PAGE = 1000
_LOOK = 0.5  # seconds between two looks for a signal
_BEYOND = 3  # requests other than creates that are made though the client has given up, at most
_STREAM_BYTES = 1 << 18  # of a piece that comes down, at least: it stays in a cache meanwhile
_NAME = re.compile(r"[A-Za-z0-9_.=+-]+")
_STATUS = re.compile(r"status code: (\d{3})(?: ([A-Z][A-Za-z ]*))?")
_NO_ACCESS = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")  # with a status of 400
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_USED_IN: list[int] = []  # the process that used the client first: its threads die in a fork
_AGAIN = "give the same command again: it goes on where it stopped"


def is_url(place: PathLike[str] | str) -> TypeGuard[str]:
    """Return whether `place` is a URL rather than a path.

    >>> is_url("s3://bucket/mnist"), is_url("data/mnist")
    (True, False)
    """
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


@dataclass(frozen=True)
class Patience:
    """Bounds what a request may take: `seconds` each time, and `tries` in all."""

    seconds: float
    tries: int

    @classmethod
    def of_environment(cls) -> Patience:
        """Read DATAGEN_REQUEST_SECONDS and DATAGEN_REQUEST_TRIES: 600 and 8 by default."""
        values = []
        for name, usual in ((_SECONDS, "600"), (_TRIES, "8")):
            text = os.environ.get(name) or usual
            if not re.fullmatch(r"\d{1,5}(\.\d{1,3})?", text) or float(text) <= 0:
                raise InputError(f"{name} is no number", expected="such as 60", found=text)
            values.append(float(text))
        return cls(values[0], max(int(values[1]), 1))


class Remote:
    """The files below a URL: listed, read, written and removed by their paths relative to it.

    Its methods raise StorageError where the store does not answer or refuses; they may be called
    from several threads, and not in a process that was forked after the first call. What is
    pickled and shown is the URL alone.

    >>> Remote("s3://bucket/mnist")
    <Remote s3://bucket/mnist>
    >>> Remote("s3://bucket/mnist").put("note.txt", b"hello")  # doctest: +SKIP
    True
    """

    def __init__(self, url: str) -> None:
        self.url = _checked(url)

    def __repr__(self) -> str:
        return f"<Remote {self.url}>"

    def __reduce__(self) -> tuple[type[Remote], tuple[str]]:
        return Remote, (self.url,)

    def place(self, path: str) -> str:
        """Return the URL of a file."""
        return f"{self.url}/{path}"

    def list(self) -> dict[str, int]:
        """Map the path of each file to its bytes; a store lists 1,000 a request."""
        found: dict[str, int] = {}

        def page() -> dict[str, int]:
            listed = self._library.list(self._client, chunk_size=_LIST_PAGE)
            return {one["path"]: int(one["size"]) for some in listed for one in some}

        found = self._ask("", page)
        found.pop("", None)  # as some tools mark a folder
        return found

    def read(self, path: str, limit: int) -> bytes | None:
        """Read a small file; None if there is none. Raises DamagedError beyond `limit` bytes."""

        def read() -> bytes | None:
            try:
                found = self._library.get(self._client, path)
            except FileNotFoundError as error:
                if _found(error)[1] == "NoSuchBucket":
                    raise
                return None
            size = int(found.meta["size"])
            if size > limit:
                raise DamagedError(
                    "too large",
                    path=self.place(path),
                    expected=f"at most {limit:,} bytes",
                    found=f"{size:,}",
                )
            data = bytes(found.bytes())
            if len(data) != size:
                raise _EndsEarlyError
            return data

        return self._ask(path, read)

    def size(self, path: str) -> int | None:
        """Return the bytes of a file; None if there is none."""

        def ask() -> int | None:
            try:
                return int(self._library.head(self._client, path)["size"])
            except FileNotFoundError:
                return None

        return self._ask(path, ask)

    def stream(self, path: str) -> Iterator[memoryview]:
        """Read a file piece by piece; a piece may come down damaged, and the end may lack.

        Raises StorageError also where there is no such file.
        """
        self._require_own_process()
        assert self._client is not None
        try:
            found = _interruptibly(lambda: self._library.get(self._client, path))
            pieces = iter(found.stream(min_chunk_size=_STREAM_BYTES))
            while (piece := _interruptibly(lambda: next(pieces, None))) is not None:
                yield memoryview(piece)
        except self._errors as error:
            raise self._explained(error, path) from None

    def put(self, path: str, data: bytes | bytearray, *, create: bool = True) -> bool:
        """Write a file whole, and return True: it has these bytes now.

        With `create`, a file that is there already stays, and the answer is whether it has these
        bytes. S3 compares what arrives with its SHA-256.
        """

        def put() -> bool:
            try:
                self._library.put(
                    self._client,
                    path,
                    data,
                    mode="create" if create else "overwrite",
                    use_multipart=False,
                )
            except self._library.exceptions.AlreadyExistsError:
                # Said of one's own write, whose answer was lost, and in a conflict of nothing.
                there = self._compare(path, data)
                if there is None or not (there or create):
                    raise _ConflictError from None
                return there
            return True

        return self._ask(path, put, is_create=create)

    def delete(self, paths: Iterable[str]) -> None:
        """Remove files; it is no error if they are gone."""
        names = [*paths]

        def delete() -> None:
            try:
                self._library.delete(self._client, names)
            except FileNotFoundError as error:
                if _found(error)[1] == "NoSuchBucket":
                    raise
                # Azure says so of a single one, and may not have reached those after it
                for name in names:
                    with suppress(FileNotFoundError):
                        self._library.delete(self._client, name)

        if names:
            self._ask("", delete)

    def require_conditional_writes(self) -> None:
        """Raise StorageError unless the store refuses to create what is there already.

        Some ignore the condition, and the last of two writers would win unnoticed.
        """
        path = f"{PROBE}{secrets.token_hex(8)}"
        try:
            # another command may have removed the first one meanwhile
            refused = any(not self.put(path, secrets.token_bytes(16)) for _ in range(3))
        except StorageError:
            self.delete([path])
            raise
        self.delete([path])  # not after an interruption: the next push does it
        if not refused:
            raise StorageError(
                "the store ignores conditional writes: two commands could mix their files here",
                path=self.url,
                expected="that a file which exists is not created again (If-None-Match: *)",
                found="that it was overwritten",
                remedy="use a store that honours them, as S3 does; "
                "or copy the finished folder there with a tool of your own",
            )

    def _compare(self, path: str, data: bytes | bytearray) -> bool | None:
        """Return whether the file has these bytes; None if there is none. Reads twice to say no."""
        view = memoryview(data)
        for _ in range(2):
            try:
                found = self._library.get(self._client, path)
            except FileNotFoundError:
                return None
            if int(found.meta["size"]) == len(view):
                end, same = 0, True
                for piece in found.stream(min_chunk_size=_STREAM_BYTES):
                    same = same and view[end : end + len(piece)] == memoryview(piece)
                    end += len(piece)
                if same and end == len(view):
                    return True
        return False

    # The client

    @cached_property
    def _library(self) -> Any:
        try:
            library = importlib.import_module("obstore")
            importlib.import_module("obstore.exceptions")
        except ImportError as error:
            raise InputError(
                "object stores need the package obstore", path=self.url, remedy=installs("s3")
            ) from error
        return library

    def _require_own_process(self) -> None:
        """Raise InputError in a process that was forked from one that used the client: it hangs."""
        if not _USED_IN:
            _USED_IN.append(os.getpid())
        if _USED_IN[0] != os.getpid():
            raise InputError(
                "the client of object stores does not survive a fork of its process",
                path=self.url,
                remedy="start workers in another way, such as by"
                ' multiprocessing.get_context("spawn")',
            )

    @cached_property
    def _patience(self) -> Patience:
        return Patience.of_environment()

    @cached_property
    def _client(self) -> Any:
        """Make the client, which reads the environment itself."""
        from_url = importlib.import_module(f"{self._library.__name__}.store").from_url
        scheme = self.url.partition("://")[0]
        named = [os.environ[name] for name in _ENDPOINTS if os.environ.get(name)]
        seconds = timedelta(seconds=self._patience.seconds)
        options = {"timeout": seconds, "connect_timeout": min(seconds, timedelta(seconds=10))}
        if scheme == "s3" and any(one.startswith("http://") for one in named):
            options["allow_http"] = True  # type: ignore[assignment]  # the user named it
        more: dict[str, Any] = {}
        if scheme == "s3":
            more["config"] = {"checksum_algorithm": "sha256"}
        retries = {
            "max_retries": self._patience.tries - 1,
            "retry_timeout": seconds * self._patience.tries,
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        }
        try:
            return from_url(self.url, client_options=options, retry_config=retries, **more)
        except (self._library.exceptions.BaseError, ValueError):
            raise StorageError(
                "the environment does not describe the store",
                path=self.url,
                expected=f"variables such as {SCHEMES[scheme]}",
                remedy="set them; docs/objects.md lists them",
            ) from None

    def _ask(self, path: str, request: Callable[[], T], *, is_create: bool = False) -> T:
        """Make a request, and make it again where the client would not though it may succeed."""
        self._require_own_process()
        assert self._client is not None  # made first: its errors are no failures of a request
        tries = self._patience.tries if is_create else min(self._patience.tries, _BEYOND)

        def ask() -> T:
            for number in itertools.count(1):
                try:
                    return request()
                except self._errors as error:
                    if number >= tries or not _may_pass(error):
                        raise self._explained(error, path) from None
                time.sleep(min(0.05 * 2**number, 2.0))
            raise AssertionError

        return _interruptibly(ask)

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        """The errors of a request: none of them is shown, because its text is not ours."""
        base = self._library.exceptions.BaseError
        return (base, FileNotFoundError, _ConflictError, _EndsEarlyError)

    def _explained(self, error: Exception, path: str) -> StorageError:
        """Turn an error of a request into a StorageError without any text of the client."""
        where = self.place(path) if path else self.url
        if isinstance(error, _ConflictError):
            problem = "the store refuses to write it, in a conflict that does not end"
        elif isinstance(error, _EndsEarlyError):
            problem = "it comes down cut off"
        elif isinstance(error, FileNotFoundError) and _found(error)[1] != "NoSuchBucket":
            problem = "there is no such object"
        else:
            return self._described(error, where)
        return StorageError(problem, path=where, remedy=_AGAIN)

    def _described(self, error: Exception, where: str) -> StorageError:
        """Make the error that says what the store answered, or that it did not."""
        status, code = _found(error)
        scheme = self.url.partition("://")[0]
        found = ", ".join(filter(None, (status, code))) or None
        named = f"look at the credentials in the environment ({SCHEMES[scheme]})"
        problem, remedy = "the store answers with an error", _AGAIN
        if status is None and _asks_the_machine(error):
            problem, remedy = "no credentials are in the environment", named
        elif "configured region" in str(error):  # as the client says of a redirection
            problem, remedy = "the bucket is somewhere else", "set AWS_REGION to its region"
        elif status is None:
            problem = "the store does not answer"
            more = f" or set {_SECONDS} to more than {self._patience.seconds:g},"
            slow = more if "TimedOut" in str(error) else ""
            remedy = f"look at the endpoint and the network,{slow} then {_AGAIN}"
        elif status.startswith(("401", "403")) or code in _NO_ACCESS:
            problem, remedy = "the store refuses access", f"{named}, and at what they permit"
        elif code == "NoSuchBucket":
            problem, remedy = "there is no such bucket", "make it, or name another"
        return StorageError(problem, path=where, found=found, remedy=remedy)


class _ConflictError(Exception):
    """The store refuses a write for what is there already, and there is nothing that hinders it."""


class _EndsEarlyError(Exception):
    """Fewer bytes came down than the store said."""


def _interruptibly(work: Callable[[], T]) -> T:
    """Run `work`; a signal ends the wait for it, because the client itself would not notice one."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    done: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:  # noqa: BLE001  (the caller's thread raises it)
            done.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        # a signal that comes just before the wait begins is noticed at its next look
        with suppress(queue.Empty):
            result, error = done.get(timeout=_LOOK)
            break
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _found(error: BaseException) -> tuple[str | None, str | None]:
    """Find the status of an answer and its code, such as ("403 Forbidden", "AccessDenied")."""
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    words = None if status is None else " ".join(filter(None, status.groups()))
    return words, code and code[1]


def _may_pass(error: BaseException) -> bool:
    """Return whether a request may succeed that the client has given up.

    It tries again what a busy store answers with 429 or 5xx. It gives up a create without an
    answer, a list that ends early, a conflict, and what was damaged on its way: a status of 400.
    """
    if isinstance(error, _ConflictError | _EndsEarlyError):
        return True
    status, code = _found(error)
    if isinstance(error, FileNotFoundError) or _asks_the_machine(error) or code in _NO_ACCESS:
        return False
    return status is None or status.startswith(("400", "408", "409"))


def _asks_the_machine(error: BaseException) -> bool:
    """Return whether credentials were looked for at the address that cloud machines have."""
    return "169.254.169.254" in str(error)


def _checked(url: str) -> str:
    """Return a URL in its normal form. Raises InputError, which never shows the URL."""
    scheme, _, rest = url.partition("://")
    if "@" in rest or "?" in rest or "#" in rest:
        raise InputError(
            "a URL of an object store has no credentials and no parameters in it",
            expected="such as s3://bucket/prefix",
            remedy="give credentials in the environment: docs/objects.md says how",
        )
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise InputError("not a kind of object store", expected=f"one of {known}")
    names = rest.rstrip("/").split("/")
    if len(names) < 2 or not all(_NAME.fullmatch(name) and name.strip(".") for name in names):
        raise InputError(
            "not the URL of a place in an object store",
            expected=f"such as {scheme}://bucket/prefix, of letters, digits and _ . = + -",
            remedy="name another place",
        )
    return f"{scheme}://{'/'.join(names)}"
