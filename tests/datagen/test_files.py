"""Test that files are whole or absent, locks end with their process, and errors are clear."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import files, locks
from datagen.errors import BusyError, StorageError

HOLDER = """
import sys
import threading
from pathlib import Path
from datagen import locks
with locks.lock(Path(sys.argv[1]), exclusive=sys.argv[2] == "exclusive"):
    print("held", flush=True)
    sys.stdin.read()
"""


def failing(code: int) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def failing_on_folders(descriptor: int) -> None:
    if os.path.isdir(f"/dev/fd/{descriptor}"):  # noqa: PTH112  (a link that Path would resolve)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def hold(folder: Path, kind: str, before: str = "") -> subprocess.Popen[str]:
    """Start a process that runs `before`, and holds a lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", before + HOLDER, str(folder), kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("")


def test_a_file_is_written_whole_and_its_folders_are_created(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    files.write_atomic(path, b"content")
    assert path.read_bytes() == b"content"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a long old content")
    with path.open("rb") as reader:
        files.write_atomic(path, b"new")
        assert reader.read() == b"a long old content", "a reader keeps what it opened"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("step", ["pwritev", "fsync", "replace", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_step_keeps_the_old_file_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, old: bytes | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "replace" else os, step, failing(code))
        with pytest.raises(StorageError) as caught:
            files.write_atomic(path, b"new")
    assert caught.value.exit_code == 7
    assert str(path) in str(caught.value)
    assert os.strerror(code).lower() in str(caught.value)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == (
        {} if old is None else {"file": old}
    )


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, counts = os.pwritev, []

    def short(descriptor: int, parts: list[memoryview], at: int) -> int:
        data = b"".join(parts)
        counts.append(write(descriptor, [data[: 1 + len(data) // 2]], at))
        return counts[-1]

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", short)
        files.write_atomic(tmp_path / "file", bytes(range(256)))
    assert (tmp_path / "file").read_bytes() == bytes(range(256))
    assert len(counts) > 3


def test_a_disk_that_fills_midway_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, path = os.pwritev, tmp_path / "file"
    path.write_bytes(b"old")

    def filling(descriptor: int, parts: list[memoryview], at: int) -> int:
        data = b"".join(parts)
        if len(data) < 200:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, [data[:100]], at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", filling)
        with pytest.raises(StorageError, match="free some space"):
            files.write_atomic(path, bytes(1000))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, fsync, replace = [], os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        steps.append(
            "folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "content"
        )
        fsync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    files.write_atomic(tmp_path / "file", b"x")
    assert steps == ["content", "rename", "folder"]


def test_a_folder_that_cannot_be_synced_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing_on_folders)
    with pytest.raises(StorageError):
        files.write_atomic(tmp_path / "file", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        files.write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_in_the_place_of_a_file_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StorageError) as caught:
        files.write_atomic(tmp_path / "file", b"x")
    assert caught.value.path == tmp_path / "file"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_discarded_file_leaves_nothing_and_a_committed_one_stays(tmp_path: Path) -> None:
    file = files.AtomicFile(tmp_path / "file")
    assert files.is_temporary(file.temporary.name)
    assert file.temporary.parent == tmp_path
    file.discard()
    file.discard()
    assert not list(tmp_path.iterdir())
    file = files.AtomicFile(tmp_path / "file")
    file.commit()
    file.discard()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@settings(deadline=None)
@given(
    start=st.integers(0, 200),
    sizes=st.lists(st.integers(0, 300), max_size=12),
    limit=st.integers(1, 400) | st.just(400),  # bytes that a write takes at most; none asks for 400
    is_large=st.booleans(),
)
def test_a_stream_writes_appended_bytes_in_whole_pages(
    tmp_path_factory: pytest.TempPathFactory,
    start: int,
    sizes: list[int],
    limit: int,
    is_large: bool,
) -> None:
    path, content = (
        tmp_path_factory.mktemp("stream") / "file",
        random.Random(0).randbytes(sum(sizes)),
    )
    write, asked = os.pwritev, []

    def write_some(descriptor: int, parts: list[memoryview], at: int) -> int:
        asked.append((at, at + sum(map(len, parts))))
        return write(descriptor, [b"".join(parts)[:limit]], at)

    file = files.AtomicFile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_PAGE" if is_large else "HUGE_PAGE", 64)
        patch.setattr(os, "pwritev", write_some)
        sample_bytes = files._LARGE if is_large else files._LARGE - 1
        stream, first = files.Stream(file, start, sample_bytes=sample_bytes), 0
        for size in sizes:
            block = bytearray(content[first : first + size])
            stream.append(block)
            block[:] = bytes(size)  # a caller's block is its own again
            first += size
            assert stream.end == start + first
        assert all(stop % 64 == 0 for _, stop in asked)
        assert max((stop for _, stop in asked), default=start) == max(start, stream.end // 64 * 64)
        stream.flush()
    file.commit()
    assert path.read_bytes() == (bytes(start) + content if content else b"")
    if limit == 400:  # no write ends early: each but the first begins where a page does
        assert all(at == start or at % 64 == 0 for at, _ in asked)
        assert not is_large or all(at // 64 == (stop - 1) // 64 for at, stop in asked)


def test_a_large_file_is_sent_to_the_disk_while_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(files, "_UNSYNCED", 100)
    monkeypatch.setattr(
        files, "_begin_to_sync", lambda descriptor: synced.append(os.fstat(descriptor).st_size)
    )
    file = files.AtomicFile(tmp_path / "file")
    for size in (60, 120, 180, 240):
        os.write(file.descriptor, bytes(60))
        file.has_grown(60)
        if file._early is not None:
            file._early.join()
        assert synced == [end for end in (120, 240) if end <= size]
    file.commit()
    assert (tmp_path / "file").read_bytes() == bytes(240)


@pytest.mark.parametrize("has_range", [False, True])
def test_where_the_system_can_send_a_file_without_waiting_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_range: bool
) -> None:
    asked: list[tuple[int, ...]] = []

    class Library:
        def __init__(self, _name: None) -> None:
            if has_range:
                self.sync_file_range = lambda descriptor, *rest: asked.append(
                    (descriptor, *(getattr(one, "value", one) for one in rest))
                )

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(os, "fsync", lambda descriptor: asked.append((descriptor,)))
    with (tmp_path / "file").open("wb") as file:
        files._begin_to_sync(file.fileno())
        assert asked == [(file.fileno(), *((0, 0, 2) if has_range else ()))]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no sync_file_range")
def test_linux_can_send_a_file_without_waiting(tmp_path: Path) -> None:
    send = ctypes.CDLL(None, use_errno=True).sync_file_range
    with (tmp_path / "file").open("wb") as file:
        nothing = ctypes.c_int64(0)
        assert send(file.fileno(), nothing, nothing, files._SYNC_FILE_RANGE_WRITE) == 0
    assert send(-1, nothing, nothing, files._SYNC_FILE_RANGE_WRITE) == -1
    assert ctypes.get_errno() == errno.EBADF


@pytest.mark.parametrize("is_short", [False, True], ids=["disk", "threads"])
def test_a_disk_that_fails_early_fails_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_short: bool
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "error")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(files, "_begin_to_sync", fail)
    if is_short:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    file = files.AtomicFile(tmp_path / "file")
    file.has_grown(files._UNSYNCED)
    if is_short:  # nothing was sent, so nothing failed
        file.commit()
    else:
        with pytest.raises(StorageError, match="input/output error") as caught:
            file.commit()
        assert caught.value.path == tmp_path / "file"
        file.discard()
    assert [path.name for path in tmp_path.iterdir()] == (["file"] if is_short else [])


def test_an_exception_in_the_middle_commits_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        files.write_atomic(tmp_path / "file", "text")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_folder_is_made_with_its_parents_and_each_entry_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert set(synced) == {tmp_path, tmp_path / "a"}
    synced.clear()
    files.make_folder(tmp_path / "a" / "b")
    assert not synced


def test_a_working_folder_that_is_gone_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match=r"no such file|the working folder is gone"):
        files.make_folder(Path("below"))


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_a_folder_should_be_is_reported_and_left_alone(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match="file"):
        files.make_folder(tmp_path / place)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_only_temporary_files_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    kept = [
        inside / ".datagen-notes",
        inside / "x.tmp",
        inside / "deep" / "datagen-1.tmp",
        outside / ".datagen-a.tmp",
    ]
    temporaries = [inside / ".datagen-0123.tmp", inside / "deep" / ".datagen-4567.tmp"]
    for path in (*kept, *temporaries):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (inside / "link").symlink_to(outside)
    files.remove_temporaries(inside)
    assert [path.exists() for path in kept] == [True] * 4
    assert [path.exists() for path in temporaries] == [False] * 2


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("theirs", ["exclusive", "shared"])
def test_shared_locks_coexist_and_an_exclusive_lock_is_alone(
    tmp_path: Path, ours: bool, theirs: str
) -> None:
    other = hold(tmp_path, theirs)
    try:
        if ours or theirs == "exclusive":
            with (
                pytest.raises(BusyError, match=re.escape(str(tmp_path))) as caught,
                locks.lock(tmp_path, exclusive=ours),
            ):
                pytest.fail("the lock was given twice")
            assert caught.value.exit_code == 6
        else:
            with locks.lock(tmp_path, exclusive=ours):
                pass
    finally:
        end(other)
    with locks.lock(tmp_path, exclusive=True):
        pass


def test_a_lock_holds_within_a_process_too_and_leaves_no_file(tmp_path: Path) -> None:
    with locks.lock(tmp_path, exclusive=True):
        with pytest.raises(BusyError), locks.lock(tmp_path, exclusive=False):
            pytest.fail("the lock was given twice")
        assert not list(tmp_path.iterdir())
    with locks.lock(tmp_path, exclusive=False), locks.lock(tmp_path, exclusive=False):
        pass


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    owner = hold(tmp_path, "exclusive")
    owner.send_signal(signal.SIGKILL)
    end(owner)
    assert owner.returncode == -signal.SIGKILL
    with locks.lock(tmp_path, exclusive=True):
        pass


def test_a_lock_is_released_when_the_body_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.lock(tmp_path, exclusive=True):
        raise ZeroDivisionError
    with locks.lock(tmp_path, exclusive=True):
        pass


def test_a_failed_lock_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with locks.lock(tmp_path, exclusive=True):
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208
        for _ in range(5):
            with pytest.raises(BusyError), locks.lock(tmp_path, exclusive=True):
                pass
        assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


def test_a_file_system_without_locks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with pytest.raises(StorageError, match="takes no lock"), locks.lock(tmp_path, exclusive=True):
        pytest.fail("no lock was taken")


# A file system that locks only files that are open for writing, as NFS does.

LIKE_NFS = """
import fcntl, os, stat
real = fcntl.flock
def flock(descriptor, mode):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode) and mode & fcntl.LOCK_EX:
        raise OSError(CODE, os.strerror(CODE))
    real(descriptor, mode)
"""


@pytest.fixture(params=[errno.EBADF, errno.ENOLCK])
def like_nfs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Refuse exclusive locks of folders here; return the code that does so in other processes."""
    code = LIKE_NFS.replace("CODE", str(request.param))
    space: dict[str, Any] = {}
    exec(code, space)
    monkeypatch.setattr(fcntl, "flock", space["flock"])
    return f"{code}fcntl.flock = flock\n"


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("theirs", ["exclusive", "shared"])
def test_locks_of_a_file_are_those_of_the_folder(
    tmp_path: Path, like_nfs: str, ours: bool, theirs: str
) -> None:
    other = hold(tmp_path, theirs, before=like_nfs)
    try:
        if ours or theirs == "exclusive":
            with pytest.raises(BusyError), locks.lock(tmp_path, exclusive=ours):
                pytest.fail("the lock was given twice")
        else:
            with locks.lock(tmp_path, exclusive=ours):
                pass
        assert [path.name for path in tmp_path.iterdir()] == [".datagen-lock.tmp"]
        files.remove_temporaries(tmp_path)
        with pytest.raises(BusyError), locks.lock(tmp_path, exclusive=True):
            pytest.fail("the lock was given twice")
    finally:
        end(other)
    assert not list(tmp_path.iterdir())
    with locks.lock(tmp_path, exclusive=True):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_file_of_a_killed_process_is_taken_over(tmp_path: Path, like_nfs: str) -> None:
    owner = hold(tmp_path, "exclusive", before=like_nfs)
    owner.send_signal(signal.SIGKILL)
    end(owner)
    assert len(list(tmp_path.iterdir())) == 1
    with locks.lock(tmp_path, exclusive=True):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(
    tmp_path: Path, like_nfs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = tmp_path / ".datagen-lock.tmp", list[int]()
    refusing = fcntl.flock

    def slow(descriptor: int, mode: int) -> None:
        if lock.exists() and not removed:
            removed.append(lock.stat().st_ino)
            lock.rename(tmp_path / "removed")  # its inode is not used again
        refusing(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", slow)
    with locks.lock(tmp_path, exclusive=True):
        assert lock.stat().st_ino != removed[0]
        with pytest.raises(BusyError), locks.lock(tmp_path, exclusive=True):
            pytest.fail("the lock was given twice")
    assert not lock.exists()


def test_parts_that_begin_at_once_do_not_keep_each_other_out(tmp_path: Path) -> None:
    """Shared locks ask for an exclusive one first: that is so short that others try again."""

    def hold_often(_: int) -> int:
        for _ in range(200):
            with locks.lock(tmp_path, exclusive=False):
                pass
        return 1

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(hold_often, range(3))) == 3


def test_a_missing_folder_cannot_be_locked(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="absent"),
        locks.lock(tmp_path / "absent", exclusive=True),
    ):
        pytest.fail("no lock was taken")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EFBIG, "smaller shards"),
        (errno.EROFS, "can be written"),
        (errno.EACCES, "change the permissions"),
        (errno.EIO, ""),
    ],
)
def test_a_system_error_becomes_one_with_path_reason_and_remedy(code: int, advice: str) -> None:
    with pytest.raises(StorageError) as caught, files.storage_errors(Path("some/where")):
        raise OSError(code, os.strerror(code))
    message = str(caught.value)
    assert message.startswith("some/where: the storage says: " + os.strerror(code).lower())
    assert advice in message
    assert caught.value.exit_code == 7
    assert isinstance(caught.value.__cause__, OSError)


def test_the_path_named_by_the_system_takes_precedence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"deeper"), files.storage_errors(tmp_path):
        (tmp_path / "deeper").read_bytes()


def test_other_errors_pass_through_unchanged() -> None:
    with pytest.raises(KeyError), files.storage_errors(Path("x")):
        raise KeyError("x")


def test_free_space_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    files.require_space(tmp_path / "a" / "b", 1)
    with pytest.raises(StorageError, match="not enough space") as caught:
        files.require_space(tmp_path / "a" / "b", free * 2 + (1 << 40))
    assert caught.value.path == tmp_path
    assert re.search(r"; free [0-9.]+ [GT]B, or choose another place$", str(caught.value))


def test_just_enough_space_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 60, 40))
    files.require_space(tmp_path, 40)
    with pytest.raises(StorageError, match=r"expected 41 B free, found 40 B\); free 1 B, or"):
        files.require_space(tmp_path, 41)


def test_too_little_space_is_told_in_sizes_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**10, 10**10, 1_200_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    for needed, told in (
        (4_123_456_789, "expected 4.1 GB free, found 1.2 GB); free 2.9 GB"),
        (1_200_000_007, "expected 1,200,000,007 bytes free, found 1,200,000,000); free 7 B"),
    ):
        with pytest.raises(StorageError) as caught:
            files.require_space(tmp_path, needed)
        whole = f"{tmp_path}: not enough space ({told}, or choose another place"
        assert str(caught.value) == whole


def test_a_writable_folder_passes(tmp_path: Path) -> None:
    files.require_writable(tmp_path)
    files.require_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_needed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="not a folder"):
            files.require_writable(place)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="the system has no /proc")
def test_a_place_that_keeps_no_files_is_refused_for_that_reason() -> None:
    reason = "no files can be kept here" if os.geteuid() == 0 else "cannot be written"
    with pytest.raises(StorageError, match=f"^/proc: .*{reason}"):
        files.require_writable(Path("/proc/x/y"))


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            files.require_writable(tmp_path / "a")
    finally:
        tmp_path.chmod(0o700)


def test_permissions_and_mounts_are_as_the_system_reports_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(StorageError, match="cannot be written"):
            files.require_writable(tmp_path)
    mounted = os.statvfs(tmp_path)
    read_only = os.statvfs_result((*mounted[:8], mounted.f_flag | os.ST_RDONLY, mounted.f_namemax))
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: read_only)
        with pytest.raises(StorageError, match="cannot be written"):
            files.require_writable(tmp_path)


@pytest.mark.parametrize(
    "call",
    [
        files.require_writable,
        lambda path: files.require_space(path, 1),
        files.make_folder,
        files.AtomicFile,
    ],
    ids=["require_writable", "require_space", "make_folder", "AtomicFile"],
)
def test_a_name_too_long_for_the_file_system_is_reported(
    tmp_path: Path, call: Callable[[Path], object]
) -> None:
    with pytest.raises(StorageError, match="too long"):
        call(tmp_path / ("n" * 300) / "below")


def test_a_writer_killed_at_any_moment_leaves_old_or_new_content(tmp_path: Path) -> None:
    path, size = tmp_path / "file", 1 << 20
    files.write_atomic(path, b"0" * size)
    writer = (
        "import sys; from pathlib import Path; from datagen import files\nprint(flush=True)\n"
        "n = 0\nwhile True: n += 1; "
        f"files.write_atomic(Path(sys.argv[1]), b'%d' % (n % 10) * {size})"
    )
    for seed in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", writer, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.Random(seed).uniform(0, 0.05))
        process.kill()
        process.communicate()
        content = path.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1
    files.remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_stays_if_it_must_not_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"first", b"second"):
        files.write_atomic(path, data, replace=False)
        assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
