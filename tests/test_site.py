"""The site and the notebook: links lead somewhere, every page is in it, nothing is from elsewhere.

`make docs` builds it, with warnings as errors, so that mkdocs checks the rest.
"""

from __future__ import annotations

import doctest
import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import notebook
import pytest
import site_pages
from isolation import ROOT
from pages import absent

SITE = (ROOT / "mkdocs.yml").read_text("utf-8")


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r": (\S+\.md)$", SITE.partition("\nnav:\n")[2], re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    made = ["index.md", "files/CONTRIBUTING.md", "files/CHANGELOG.md", *site_pages.reference()]
    assert sorted(named) == sorted([*pages, *made])


@pytest.mark.parametrize("name", ["notebook", "site_pages"])
def test_the_examples_of_the_tools_are_true(name: str) -> None:
    tried = doctest.testmod(importlib.import_module(name))
    assert tried.attempted and not tried.failed


def test_what_a_page_would_fetch_and_lists_shown_as_text_are_warned_of() -> None:
    warned: list[str] = []
    for harmless in (
        '<a href="https://hypothesis.readthedocs.io">hypothesis</a>',
        '<link href="assets/a.css"><script src="assets/a.js"></script>',
        "<p>One\ntwo - three</p>\n<ul>\n<li>\n- </li></ul>",
    ):
        site_pages.check(harmless, "a.md", warned.append)
    assert not warned
    for fault in (
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<script src="//host.example/a.js"></script>',
        "<p>These:\n- one\n- two</p>",
    ):
        site_pages.check(fault, "a.md", warned.append)
    assert len(warned) == 3


def test_the_notebook_is_that_of_the_page() -> None:
    assert notebook.main(["--check"]) == 0, "run: python tests/tools/notebook.py"


@pytest.mark.long
def test_the_notebook_runs_and_prints_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ipykernel")
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    made = nbformat.read(notebook.NOTEBOOK, as_version=4)
    nbformat.validate(made)
    programs = Path(sys.executable).parent  # its cells of bash find `datagen` there
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    nbclient.NotebookClient(made, timeout=900).execute()
    ran = [cell for cell in made.cells if cell.cell_type == "code"]
    blocks = notebook.BLOCK.findall(notebook.PAGE.read_text("utf-8"))
    assert len(ran) == len(blocks) > 8
    for (language, block), cell in zip(blocks, ran, strict=True):
        output = printed(cell)
        if language == "python":
            assert output
            continue
        (command,) = notebook.typed(block)
        shown = block.split(f"$ {command}\n")[1].splitlines()
        assert absent(command, shown, output) == [], output


def printed(cell: Any) -> list[str]:
    """List the lines that a cell wrote to its streams."""
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    return [line.rstrip() for line in text.splitlines()]
