"""Download files over HTTP from public mirrors, in bounded time and space.

Either a file is complete and checked, or the message lists why each mirror did not give it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from datagen.errors import InputError
from datagen.layout import VERSION
from datagen.sources.base import Progress, Warn

if TYPE_CHECKING:
    from http.client import HTTPResponse

TIMEOUT = 10.0  # seconds without an answer
SLOWEST = 1024  # bytes a second, once TIMEOUT has passed; slower counts as no answer
VARIABLE = "DATAGEN_MIRRORS"
_BLOCK = 1 << 16


class RefusalError(Exception):
    """Explain why a mirror gave no file; `gone` if it did not answer and is not asked again."""

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        self.gone = gone
        super().__init__(reason)


@dataclass
class Mirror:
    """Keep, while files are fetched, why a mirror did not give some, and whether it answers."""

    base: str
    refusals: list[str] = field(default_factory=list)
    gone: bool = False


def chosen(default: Sequence[str]) -> list[Mirror]:
    """List the mirrors to try: the base URLs in $DATAGEN_MIRRORS, by spaces, else `default`."""
    bases = os.environ.get(VARIABLE, "").split() or default
    for base in bases:
        if not base.startswith(("http://", "https://")):
            raise InputError(
                "not a mirror", path=f"${VARIABLE}", expected="http:// or https://", found=base
            )
    return [Mirror(base) for base in bases]


def download(
    name: str,
    mirrors: Sequence[Mirror],
    check: Callable[[bytes], bytes],
    *,
    limit: int,
    timeout: float = TIMEOUT,
    warn: Warn | None = None,
    progress: Progress | None = None,
) -> bytes | None:
    """Return what `check` makes of the file `name` from the first mirror whose file it accepts.

    `check` raises RefusalError for a wrong file. Refusals are noted on their mirrors and given to
    `warn`. Returns None if no mirror helps. `limit` and `timeout` are as for `get`.
    """
    for mirror in mirrors:
        if mirror.gone:
            continue
        url = f"{mirror.base.rstrip('/')}/{name}"
        try:
            return check(get(url, limit=limit, timeout=timeout, progress=progress))
        except RefusalError as refusal:
            mirror.gone = refusal.gone
            mirror.refusals.append(f"{name}: {refusal}")
            if warn:
                warn(f"{mirror.base}: {mirror.refusals[-1]}")
    return None


def get(
    url: str, *, limit: int, timeout: float = TIMEOUT, progress: Progress | None = None
) -> bytes:
    """Return the body at `url`, of at most `limit` bytes; raise RefusalError, whatever goes wrong.

    `timeout` is in seconds, for the connection and for each answer.
    """
    import http.client  # these take longer to import than MNIST takes to read
    import urllib.error
    import urllib.request

    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"datagen/{VERSION}"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return _body(response, url.rpartition("/")[2], limit, timeout, progress)
    except urllib.error.HTTPError as error:
        error.close()
        raise RefusalError(f"answered {error.code} {error.reason}") from error
    except TimeoutError as error:
        raise RefusalError(f"no answer in {timeout:g} s", gone=True) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise RefusalError(f"no answer in {timeout:g} s", gone=True) from error
        raise RefusalError(f"could not be reached: {error.reason}", gone=True) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RefusalError(f"broke off: {error or type(error).__name__}", gone=True) from error


def _body(
    response: HTTPResponse, name: str, limit: int, timeout: float, progress: Progress | None
) -> bytes:
    total = response.length
    if total is not None and total > limit:
        raise RefusalError(f"offered {total:,} bytes where {limit:,} are the most possible")
    body = bytearray()
    start = time.monotonic()
    while block := response.read1(_BLOCK):
        body += block
        if len(body) > limit:
            raise RefusalError(f"sent more than {limit:,} bytes, the most possible")
        elapsed = time.monotonic() - start
        if elapsed > timeout and len(body) < elapsed * SLOWEST:
            raise RefusalError(f"sent {len(body):,} bytes in {elapsed:.0f} s, too slow", gone=True)
        if progress:
            progress(name, len(body), total)
    if total is not None and len(body) < total:
        raise RefusalError(f"broke off after {len(body):,} of {total:,} bytes")
    return bytes(body)
