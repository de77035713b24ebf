"""Make docs/tutorial.ipynb of docs/tutorial.md, or tell whether it is up to date.

    python tests/tools/notebook.py            write it
    python tests/tools/notebook.py --check    exit with 1 if it is another

Blocks of `console` and `python` become cells to run. All other text is shown as it is.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def typed(block: str) -> list[str]:
    r"""List the commands of a console block, without what they print.

    >>> typed("$ datagen info\ndigest 12\n$ datagen verify \\\n    --quick\n")
    ['datagen info', 'datagen verify \\\n    --quick']
    """
    return re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)


def cells(page: str) -> list[dict[str, Any]]:
    """Divide a page into cells of text and of code, in the form of nbformat 4.5."""
    made: list[dict[str, Any]] = []

    def add(text: str, *, is_code: bool) -> None:
        if text.strip():
            more: dict[str, Any] = {"execution_count": None, "outputs": []} if is_code else {}
            kind = "code" if is_code else "markdown"
            lines = text.strip("\n").splitlines(keepends=True)
            made.append(
                {"cell_type": kind, "id": f"cell-{len(made):02}", "metadata": {}, "source": lines}
                | more
            )

    end = 0
    for block in BLOCK.finditer(page):
        add(page[end : block.start()], is_code=False)
        language, text = block.groups()
        code = text if language == "python" else "\n".join(["%%bash -e", *typed(text)])
        add(code, is_code=True)
        end = block.end()
    add(page[end:], is_code=False)
    return made


def notebook(page: str) -> str:
    """Return the notebook of a page, as the text of its file."""
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": cells(page), "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write the notebook, or compare it with its page; return the exit code."""
    made = notebook(PAGE.read_text("utf-8"))
    if arguments == ["--check"]:
        return int(not NOTEBOOK.exists() or NOTEBOOK.read_text("utf-8") != made)
    NOTEBOOK.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
