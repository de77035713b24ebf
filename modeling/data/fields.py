"""Values of a JSON object, of the kinds that a manifest holds: what they must be, or
WrongValueError tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MAX_SIDE = 1 << 20  # of an image, along any axis

_PATH = re.compile(r"(?!.{256})[a-z0-9_][a-z0-9_.-]*(/[a-z0-9_][a-z0-9_.-]*)*")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# half of a character: JSON can spell it, no terminal can print it
_SURROGATE = re.compile("[\ud800-\udfff]")
_HEX = re.compile(r"[0-9a-f]{64}")


class WrongValueError(Exception):
    """A value is not what the format wants there; the message says where and what."""


def read_object(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The JSON object at `key`."""
    value = plain.get(key)
    if not isinstance(value, dict):
        raise WrongValueError(f"{_shown(key)} must be an object")
    return value


def read_list(plain: Mapping[str, Any], key: str) -> list[Any]:
    """The list at `key`."""
    value = plain.get(key)
    if not isinstance(value, list):
        raise WrongValueError(f"{key} must be a list")
    return value


def read_text(plain: Mapping[str, Any], key: str) -> str:
    """The text at `key`, such as any terminal can print."""
    return _check_text(plain.get(key), key)


def read_texts(plain: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The list of texts at `key`."""
    return tuple(_check_text(value, key) for value in read_list(plain, key))


def read_natural(plain: Mapping[str, Any], key: str) -> int:
    """The integer at `key`, from 1 to 2^63 - 1."""
    value = plain.get(key)
    if type(value) is not int or not 0 < value < 1 << 63:
        raise WrongValueError(f"{key} must be an integer from 1 to 2^63 - 1")
    return value


def read_pair(plain: Mapping[str, Any], key: str) -> tuple[int, int]:
    """The list at `key` of a number of rows and one of columns."""
    values = read_list(plain, key)
    if len(values) != 2 or not all(type(value) is int and 0 < value < MAX_SIDE for value in values):
        raise WrongValueError(f"{key} must be two integers, rows and columns")
    return values[0], values[1]


def read_digest(plain: Mapping[str, Any], key: str) -> str:
    """The SHA-256 in hex at `key`."""
    value = read_text(plain, key)
    if not _HEX.fullmatch(value):
        raise WrongValueError(f"{key} must be a digest of 32 bytes in hex")
    return value


def check_name(text: str) -> str:
    """`text` itself, if it is a name of a task, a split or a column."""
    if not _NAME.fullmatch(text):
        raise WrongValueError(
            f"{_shown(text)} is not a name of letters a to z, digits and underscores"
        )
    return text


def check_path(text: str) -> str:
    """`text` itself, if it is a path that cannot leave the dataset."""
    if not _PATH.fullmatch(text):
        raise WrongValueError(f"{_shown(text)} is not a path within the dataset")
    return text


def _check_text(value: object, key: str) -> str:
    if not isinstance(value, str) or _SURROGATE.search(value):
        raise WrongValueError(f"{key} must be text")
    return value


def _shown(text: str) -> str:
    """The text as an error may quote it."""
    return ascii(text[:64])
