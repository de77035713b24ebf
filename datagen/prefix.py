"""Own a prefix of an object store for one dataset: claim it, send to it, commit.

There as in a folder, a dataset is finished once `manifest.json` is there: it is written last. The
first object, `.manifest.json`, is the claim: it says what is being written, so that another dataset
is refused. It goes when all is there. A push claims with the manifest itself, a build with its
plan, because it does not know the rest yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from datagen import manifest as manifests
from datagen.errors import DatagenError, FormatError, StorageError
from datagen.layout import MANIFEST, MAX_MANIFEST_BYTES, PARTIAL_MANIFEST, PROGRESS
from datagen.manifest import Manifest
from datagen.objects import PROBE, Remote
from datagen.split import FileFacts
from datagen.transfer import LISTED, READS, overtaken, require_sizes

T = TypeVar("T")

_CLAIMS = 10  # looks at what is there, while other commands change it


class Prefix:
    """The prefix of one dataset, while objects are sent there.

    `claim` are the bytes of `.manifest.json`, and `is_ours(name, content)` says whether a manifest
    that is there is one of this dataset. `found` holds those that were, by name.

    >>> prefix = Prefix(remote, data, lambda _name, there: there == data)  # doctest: +SKIP
    >>> listed = prefix.claim()  # doctest: +SKIP
    >>> prefix.put("recipe.toml", content, is_there=False)  # doctest: +SKIP
    >>> prefix.commit(data, facts, listed)  # doctest: +SKIP
    """

    def __init__(self, remote: Remote, claim: bytes, is_ours: Callable[[str, bytes], bool]) -> None:
        self.remote, self._claim, self._is_right = remote, claim, is_ours
        self.found: dict[str, bytes] = {}

    def look(self) -> dict[str, int]:
        """List what is there. Raises FormatError where that is anything but this dataset."""
        return self._patiently(self._try_to_look)

    def claim(self, *, beside: bool = False) -> dict[str, int]:
        """Say which dataset is being written, and list what is there.

        Of several that begin at once, the first decides. What is finished is claimed again where
        `beside` says so. Raises FormatError where there is another dataset, and StorageError where
        the store cannot hold a claim.
        """
        return self._patiently(lambda: self._try_to_claim(beside))

    def require_claim(self) -> None:
        """Raise OvertakenError unless this dataset is still the one that the prefix is for.

        The command may have slept for a day since it listed what is there.
        """
        if not any(self._is_ours(name) for name in (PARTIAL_MANIFEST, MANIFEST)):
            raise overtaken(self.remote.url)

    def put(self, path: str, content: bytes, *, is_there: bool) -> None:
        """Create an object, or replace one of another size if the prefix is still for this dataset.

        Raises OvertakenError where there is one with other bytes.
        """
        if is_there:
            self.require_claim()
        if not self.remote.put(path, content, create=not is_there):
            raise overtaken(self.remote.place(path))

    def commit(
        self, manifest: bytes, wanted: Iterable[FileFacts], before: Iterable[str], remedy: str
    ) -> None:
        """Write the manifest once every file is listed with its size, and remove the claim.

        `before` is what was there when the command began: it may have to be swept.
        """
        listed = self.remote.list()
        require_sizes(self.remote, listed, wanted, StorageError, remedy)
        if not self.remote.put(MANIFEST, manifest) and not self._is_ours(MANIFEST):
            raise overtaken(self.remote.url)
        records = {name for name in listed if name.startswith(f"{PROGRESS}/")}
        self.sweep({PARTIAL_MANIFEST, *before, *records})

    def sweep(self, listed: Iterable[str]) -> None:
        """Remove the claim and records of a build, and the probes of commands that were killed."""
        progress = (PROBE, f"{PROGRESS}/")
        self.remote.delete(
            name for name in listed if name == PARTIAL_MANIFEST or name.startswith(progress)
        )

    def _patiently(self, step: Callable[[], T | None]) -> T:
        """Do a step until no other command changes what is there meanwhile."""
        for _ in range(_CLAIMS):
            found = step()
            if found is not None:
                return found
        raise StorageError(
            "other commands write here all the time",
            path=self.remote.url,
            remedy="wait for them to end, or choose another prefix",
        )

    def _try_to_look(self) -> dict[str, int] | None:
        """Do what `look` does; None where another command changed what is there meanwhile."""
        listed = self.remote.list()
        known = next((name for name in (MANIFEST, PARTIAL_MANIFEST) if name in listed), None)
        if known is not None:
            return listed if self._is_ours(known) else None
        strangers = [path for path in sorted(listed) if not path.startswith(PROBE)]
        if strangers:
            raise FormatError(
                "holds something else",
                path=self.remote.url,
                expected="nothing, or the same dataset",
                found=", ".join(strangers[:LISTED]),
                remedy="choose another prefix",
            )
        return listed

    def _try_to_claim(self, beside: bool) -> dict[str, int] | None:
        """Do what `claim` does; None where another command changed what is there meanwhile."""
        listed = self._try_to_look()
        if listed is None or (MANIFEST in listed and not beside):
            return listed
        self.remote.require_conditional_writes()
        if PARTIAL_MANIFEST in listed and MANIFEST in listed:
            return listed if self._is_mine_beside() else None
        if PARTIAL_MANIFEST in listed:
            return listed
        if not self.remote.put(PARTIAL_MANIFEST, self._claim) and not self._is_ours(
            PARTIAL_MANIFEST
        ):
            return None
        listed = self.remote.list()  # again: another command may have finished before the claim
        try:
            return listed if MANIFEST not in listed or self._is_ours(MANIFEST) else None
        except FormatError:
            self.remote.delete([PARTIAL_MANIFEST])  # a claim on what is finished claims nothing
            raise

    def _is_mine_beside(self) -> bool:
        """Return whether the claim beside a finished dataset is this one; remove any other.

        It is of a command that was killed just after it had finished the dataset.
        """
        try:
            return self._is_ours(PARTIAL_MANIFEST)
        except FormatError:
            self.remote.delete([PARTIAL_MANIFEST])
            return False

    def _is_ours(self, name: str) -> bool:
        """Return True if a manifest there is of this dataset, and False if it is gone.

        Raises FormatError where it is of another one.
        """
        present: Manifest | None = None
        for _ in range(READS):
            there = self.remote.read(name, MAX_MANIFEST_BYTES)
            if there is None:
                return False
            with suppress(DatagenError):  # a bit may flip on the way
                if self._is_right(name, there):
                    self.found[name] = there
                    return True
                present = manifests.from_bytes(there, path=self.remote.place(name))
                break
        raise self._refused(present)

    def _refused(self, present: Manifest | None) -> FormatError:
        """Make the error that says of which dataset a manifest is that is there."""
        ours = manifests.from_bytes(self._claim, path=PARTIAL_MANIFEST)
        expected, found = _names(ours), "something else"
        if present is not None and not ours.splits and present.plan != ours:
            expected, found = manifests.difference(ours, present)
        elif present is not None:
            found = f"{_names(present)}, or the same in another storage"
        return FormatError(
            "holds another dataset, finished or begun",
            path=self.remote.url,
            expected=expected,
            found=found,
            remedy="choose another prefix, or remove the objects there yourself",
        )


def _names(manifest: Manifest) -> str:
    return f"one of digest {manifest.digest}" if manifest.splits else "a build that was begun"
