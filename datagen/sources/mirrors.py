"""One file over HTTP, in bounded time and space: whole, or refused with the reason a person can act
on.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request

from datagen.errors import InputError
from datagen.layout import VERSION
from datagen.sources.base import Progress

TIMEOUT = 10.0  # seconds without an answer
SLOWEST = 1024  # bytes a second, once TIMEOUT has passed; slower counts as no answer
VARIABLE = "DATAGEN_MIRRORS"
_BLOCK = 1 << 16


class RefusalError(Exception):
    """A mirror did not give the file; `gone` says that it did not answer at all and need not be
    asked again.
    """

    def __init__(self, reason: str, *, gone: bool = False) -> None:
        self.gone = gone
        super().__init__(reason)


def chosen(default: tuple[str, ...]) -> tuple[str, ...]:
    """The base URLs to try: those in $DATAGEN_MIRRORS, separated by spaces, else `default`."""
    mirrors = tuple(os.environ.get(VARIABLE, "").split()) or default
    for mirror in mirrors:
        if not mirror.startswith(("http://", "https://")):
            raise InputError(
                "not a mirror", path=f"${VARIABLE}", expected="http:// or https://", found=mirror
            )
    return mirrors


def get(
    url: str, *, limit: int, timeout: float = TIMEOUT, progress: Progress | None = None
) -> bytes:
    """The body at `url`, of at most `limit` bytes. Raises RefusalError, whatever goes wrong."""
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
        raise RefusalError(_unreachable(error.reason, timeout), gone=True) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise RefusalError(f"broke off: {error or type(error).__name__}", gone=True) from error


def _unreachable(reason: str | BaseException, timeout: float) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer in {timeout:g} s"
    return f"could not be reached: {reason}"


def _body(
    response: http.client.HTTPResponse,
    name: str,
    limit: int,
    timeout: float,
    progress: Progress | None,
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
