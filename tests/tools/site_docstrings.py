"""Show the examples of docstrings as code in the reference (an extension in mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).*)*", re.MULTILINE)


def fenced(docstring: str) -> str:
    """Put each example of a docstring between fences, as Markdown takes `>>>` for a quotation.

    >>> fenced("Add.\\n\\n>>> 1 + 1\\n2")
    'Add.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", docstring)


class Examples(griffe.Extension):  # type: ignore[misc, unused-ignore]
    """Fence the examples of every object whose docstring has some."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of an object that was just read (griffe calls it)."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
