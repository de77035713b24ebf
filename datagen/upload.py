"""Send a finished dataset to an object store: push."""

from __future__ import annotations

import time
from os import PathLike

from datagen import locks
from datagen import manifest as manifests
from datagen.dataset import Dataset, has_intact_metadata, require_no_links, small_files
from datagen.engines import Progress
from datagen.errors import DamagedError
from datagen.layout import MANIFEST
from datagen.objects import Remote
from datagen.prefix import Prefix
from datagen.split import FileFacts
from datagen.transfer import JOBS, Moved, move_files, read_whole, require_sendable, shard_files

_IN_FLIGHT = 2 << 30  # bytes of files that are sent at once, at most, but for one file
_SMALLER = "make smaller shards: datagen convert FROM TO --shard-size N"
_REPAIR = "give its build command again: it writes only what is damaged; then push it again"
_AGAIN = "push the dataset again: it sends what is missing"


def push(
    root: PathLike[str] | str, url: str, *, jobs: int = JOBS, progress: Progress | None = None
) -> Moved:
    """Send the finished dataset in `root` to `url`, as far as it is not there already.

    Each file is compared with its digest as it is read, `jobs` files are on their way at once, and
    the manifest is sent last. After any error or kill the same call goes on: what is there with
    the right size is kept. An object of another size is replaced only while the prefix is still
    for this dataset, and no other object ever is. `progress` is called with the bytes sent and in
    all.

    Raises DamagedError where the dataset is not as its manifest says, FormatError where the prefix
    holds something else, at first or later, BusyError, InputError for a bad URL, and StorageError.

    >>> push("data/mnist", "s3://bucket/mnist")  # doctest: +SKIP
    """
    started = time.perf_counter()
    remote, dataset = Remote(url), Dataset(root)
    with locks.lock(dataset.root, exclusive=False):
        manifest, data = dataset.manifest, manifests.to_bytes(dataset.manifest)
        require_no_links(dataset.root, manifest)
        if not has_intact_metadata(dataset.root, manifest):
            raise DamagedError(
                "not a dataset to publish: its metadata are damaged, it is being built, "
                "or its digest is not the published one",
                path=dataset.root,
                remedy=f"datagen verify {dataset.root} says more",
            )
        shards = shard_files(
            manifest.splits.values(),
            lambda split: dataset.table(split.task, split.name),
            str(dataset.root),
        )
        wanted = [*small_files(manifest), *(one.facts for one in shards)]
        for one in wanted:
            require_sendable(one.path, one.bytes, _SMALLER)
        prefix = Prefix(remote, data, lambda _name, there: there == data)
        listed = prefix.claim()
        missing = [one for one in wanted if listed.get(one.path) != one.bytes]
        if MANIFEST in listed and not missing:
            prefix.sweep(listed)
            return Moved(manifest, 0, len(wanted) + 1, 0, time.perf_counter() - started)

        def send(one: FileFacts) -> None:
            content = read_whole(dataset.root, one, _REPAIR)
            prefix.put(one.path, content, is_there=one.path in listed)

        largest = max((one.bytes for one in missing), default=1)
        move_files(send, missing, min(jobs, max(_IN_FLIGHT // max(largest, 1), 1)), progress)
    prefix.commit(data, wanted, listed, _AGAIN)
    sent, kept = len(missing) + 1, len(wanted) - len(missing)
    size = sum(one.bytes for one in missing) + len(data)
    return Moved(manifest, sent, kept, size, time.perf_counter() - started)
