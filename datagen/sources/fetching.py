"""Pinned files from public mirrors into the cache: every byte checked, every mirror's answer told
if none helps.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from datagen import files
from datagen.errors import BusyError, InputError, SourceError
from datagen.sources import idx, mirrors
from datagen.sources.base import Progress, Report
from datagen.sources.mirrors import TIMEOUT
from datagen.sources.mnist import Pinned, PinnedFile, cache_folder, read_pinned


def fetch(
    pinned: Pinned,
    *,
    cache: Path | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
    timeout: float = TIMEOUT,
) -> list[Path]:
    """Bring into the cache what it lacks, or holds damaged, of the pinned files; their paths.

    Raises SourceError, with what every mirror said, where none gives a file with the pinned bytes,
    and StorageError where the cache has no room. `timeout` is in seconds, for connecting and for
    each answer.
    """
    folder = cache_folder(pinned, cache)
    wanted = [file for file in pinned.files if not _is_cached(file, folder, report)]
    tried = [_Mirror(base) for base in mirrors.chosen(pinned.mirrors)]
    if wanted:
        files.require_writable(folder)
        if folder.exists():
            with suppress(BusyError), files.lock(folder, exclusive=True):
                # Of fetches that were killed: those that live hold the lock to write.
                files.remove_temporaries(folder, below=False)
        files.require_space(folder, sum(file.size for file in wanted))
    for file in wanted:
        data = _first_good(file, tried, report, progress, timeout)
        if data is None:
            raise _not_had(pinned, file, tried)
        files.make_folder(folder)
        with files.lock(folder, exclusive=False, wait=True):
            files.write_atomic(folder / file.name, data)
    return [folder / file.name for file in pinned.files]


def _is_cached(file: PinnedFile, folder: Path, report: Report | None) -> bool:
    path = folder / file.name
    if not path.exists():
        return False
    try:
        read_pinned(file, path)
    except InputError as error:
        _tell(report, f"{error}; it is fetched again")
        return False
    return True


@dataclass
class _Mirror:
    """A mirror in the course of one `fetch`: what it said in place of files, and whether it answers
    at all.
    """

    base: str
    said: list[str] = field(default_factory=list)
    gone: bool = False


def _first_good(
    file: PinnedFile,
    tried: list[_Mirror],
    report: Report | None,
    progress: Progress | None,
    timeout: float,
) -> bytes | None:
    """The decompressed bytes of `file` from the first mirror that gives them; the others are
    marked.
    """
    # Deflate adds at most 5 bytes to each 16 KiB, and a mirror may serve the file raw.
    limit = file.size + file.size // 1000 + 4096
    for mirror in tried:
        if mirror.gone:
            continue
        url = f"{mirror.base.rstrip('/')}/{file.name}.gz"
        try:
            return _verified(
                file, mirrors.get(url, limit=limit, timeout=timeout, progress=progress)
            )
        except mirrors.RefusalError as refusal:
            mirror.gone = refusal.gone
            mirror.said.append(f"{file.name}.gz: {refusal}")
            _tell(report, f"{mirror.base}: {mirror.said[-1]}")
    return None


def _verified(file: PinnedFile, data: bytes) -> bytes:
    if data.lstrip()[:1] == b"<":
        raise mirrors.RefusalError("answered with a web page, not the file")
    try:
        content = idx.decode(data, f"{len(data):,} bytes", file.kind, file.size)
    except InputError as error:
        raise mirrors.RefusalError(str(error)) from error
    if content.digest != file.digest:
        raise mirrors.RefusalError(
            f"other bytes than the pinned: expected {file.digest}, found {content.digest}"
        )
    return content.raw.tobytes()


def _not_had(pinned: Pinned, file: PinnedFile, tried: list[_Mirror]) -> SourceError:
    told = [f"\n  {mirror.base}: {'; '.join(mirror.said)}" for mirror in tried]
    return SourceError(
        f"{pinned.name} could not be had; no mirror gave {file.name}:{''.join(told)}",
        remedy=f"give the folder that holds its {len(pinned.files)} files with --source-dir",
    )


def _tell(report: Report | None, message: str) -> None:
    if report:
        report(message)
