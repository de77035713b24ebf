"""Text files that people write: UTF-8, with or without the byte order mark that some editors put
first.
"""

from __future__ import annotations

import io
from pathlib import Path

from datagen.errors import DatagenError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # the marks that text in UTF-16 begins with


def decode(data: bytes, path: Path | str, error: type[DatagenError]) -> str:
    """Decode the text in `data` and leave out its byte order mark; raise `error` about `path` if it
    is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data[: reason.start].count(b"\n") + 1
        found = (
            "UTF-16"
            if data.startswith(_UTF16)
            else f"byte 0x{data[reason.start]:02x} in line {line}"
        )
        raise error(
            "not UTF-8 text",
            path=path,
            expected="UTF-8",
            found=found,
            remedy="save the file as UTF-8",
        ) from reason


def lines(text: str) -> list[str]:
    """Split `text` at the line ends of any system: LF, CR LF or CR, and at no other character."""
    return io.StringIO(text, newline=None).read().split("\n")
