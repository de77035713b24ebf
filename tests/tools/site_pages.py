"""Make the pages of the site that are no files of docs/, and lead links to where files are there.

mkdocs calls the functions that begin with `on_` (`hooks` in mkdocs.yml). The start page is
README.md, the reference lists the public functions and classes of both packages, and each file of
the repository that a page links to is copied below `files/`.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
ABSENT = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//")
LOST_LIST = re.compile(r"<p>[^<]*(?:<(?!/p>)[^<]*)*?\n(?:- |\d+\. )")

# Classes that the functions return or take, beside the functions themselves.
CLASSES = {
    "datagen": (
        *("datagen.opened.OpenedDataset", "datagen.columns.OpenedSplit"),
        *("datagen.columns.OpenedColumn", "datagen.columns.DerivedSamples"),
        *("datagen.verifier.Verdict", "datagen.recipe.changed"),
    ),
    "modeling": (
        *("modeling.data.dataset.Dataset", "modeling.data.dataset.Split"),
        *("modeling.data.batches.Batches", "modeling.data.order.Order"),
        *("modeling.inference.Model", "modeling.api.Scores", "modeling.config.Config"),
    ),
}
TASKS = ("Task", "Inputs", "ImageFacts", "one_per_digit")

logger = logging.getLogger("mkdocs.plugins.site_pages")


def repository_path(page: str) -> str:
    """Return the file of the repository that a page of the site shows.

    >>> repository_path("index.md"), repository_path("howto/share.md")
    ('README.md', 'docs/howto/share.md')
    >>> repository_path("files/CHANGELOG.md")
    'CHANGELOG.md'
    """
    if page == "index.md":
        return "README.md"
    return page.removeprefix("files/") if page.startswith("files/") else f"docs/{page}"


def site_path(file: str) -> str:
    """Return where a file of the repository is in the site; undoes `repository_path`.

    >>> site_path("docs/format.md"), site_path("results/loader.json")
    ('format.md', 'files/results/loader.json')
    """
    if file == "README.md":
        return "index.md"
    return file.removeprefix("docs/") if file.startswith("docs/") else f"files/{file}"


def target(page: str, link: str) -> str:
    """Return the file of the repository that a link of a page points to.

    >>> target("howto/share.md", "../../results/loader.json")
    'results/loader.json'
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(page)), link))


def redirected(page: str, text: str, root: Path = ROOT) -> str:
    """Return the Markdown of a page with links to places in the site; folders lose their link.

    >>> redirected("index.md", "[speed](docs/speed.md#limits), [all](#all), [tests](tests)")
    '[speed](speed.md#limits), [all](#all), tests'
    """

    def changed(found: re.Match[str]) -> str:
        mark, shown, link, anchor = found.groups()
        if not link or "://" in link:
            return found[0]
        file = target(page, link)
        if (root / file).is_dir():
            return shown
        place = posixpath.relpath(site_path(file), posixpath.dirname(page) or ".")
        return f"{mark}[{shown}]({place}{anchor or ''})"

    return LINK.sub(changed, text)


def unescaped(text: str) -> str:
    r"""Return Markdown without the escapes of bars in the code of tables, which are shown here.

    >>> unescaped(r"| `a \| b` | c \| d |")
    '| `a | b` | c \\| d |'
    """
    rows = re.compile(r"^\|.*$", re.MULTILINE)
    codes = re.compile(r"`[^`\n]*`")

    def of_row(row: re.Match[str]) -> str:
        return codes.sub(lambda code: code[0].replace(r"\|", "|"), row[0])

    return rows.sub(of_row, text)


def linked_files(page: str, text: str, root: Path = ROOT) -> set[str]:
    """List the files outside of docs/ that a page links to.

    >>> sorted(linked_files("index.md", "[a](LICENSE), [b](docs/format.md), [c](https://a.bc)"))
    ['LICENSE']
    """
    links = {link for _, _, link, _ in LINK.findall(text) if link and "://" not in link}
    files = {target(page, link) for link in links}
    return {file for file in files if (root / file).is_file() and not file.startswith("docs/")}


def reference() -> dict[str, str]:
    """Write the pages of the reference: the path of each, and its Markdown for mkdocstrings."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import datagen  # both import nothing heavy
    import modeling

    pages = {}
    packages: tuple[ModuleType, ...] = (datagen, modeling)
    for package in packages:
        name = package.__name__
        functions = package._FUNCTIONS
        parts = [f"# {name}", f"The functions of `import {name}`, then the classes they return."]
        for public, (module, attribute) in functions.items():
            parts.append(_entry(f"{module}.{attribute}", f"{name}.{public}"))
        parts += [_entry(one, one) for one in CLASSES[name]]
        pages[f"reference/{name}.md"] = "\n\n".join(parts) + "\n"
        pages[f"reference/{name}-errors.md"] = f"# Errors of {name}\n\n{_errors(name)}\n"
    pages["reference/testing.md"] = "\n\n".join(
        [
            "# Tasks and strategies",
            "A derived dataset of one's own is a `Task`; hypothesis strategies test it.",
            *(_entry(f"datagen.tasks.{one}", f"datagen.tasks.{one}") for one in TASKS),
            _entry("datagen.testing", "datagen.testing"),
        ]
    )
    return pages


def _entry(path: str, heading: str) -> str:
    """Write the lines that mkdocstrings replaces by the documentation of one object."""
    return f"::: {path}\n    options:\n      heading: {heading}\n      toc_label: {heading}"


def _errors(package: str) -> str:
    """Write the lines for the classes of errors of a package, without the functions beside them."""
    code = (ROOT / package / "errors.py").read_text("utf-8")
    classes = re.findall(r"^class (\w+Error)\b", code, re.MULTILINE)
    options = (f"members: [{', '.join(classes)}]", "show_root_heading: false")
    lines = [*options, "show_root_toc_entry: false"]
    return "\n      ".join([f"::: {package}.errors\n    options:", *lines])


def on_files(files: Any, config: Any) -> Any:
    """Add the start page, the reference and linked files to those of docs/ (mkdocs calls it)."""
    from mkdocs.structure.files import File

    def add(page: str, **content: str) -> None:
        files.append(File.generated(config, page, **content))

    add("index.md", abs_src_path=str(ROOT / "README.md"))
    for page, text in reference().items():
        add(page, content=text)
    waiting = [file.src_uri for file in files.documentation_pages()]
    known = set(waiting)
    while waiting:
        page = waiting.pop()
        if page.startswith("reference/"):
            continue
        text = (ROOT / repository_path(page)).read_text("utf-8")
        for file in sorted(linked_files(page, text)):
            place = site_path(file)
            if place not in known:
                known.add(place)
                add(place, abs_src_path=str(ROOT / file))
                waiting += [place] if file.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Lead the links of a page to places in the site (mkdocs calls it)."""
    name = page.file.src_uri
    return markdown if name.startswith("reference/") else unescaped(redirected(name, markdown))


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Warn of whatever a page would fetch from other hosts, and of lists shown as text."""
    check(output, page.file.src_uri, logger.warning)
    return output


def check(output: str, name: str, warn: Callable[[str], object]) -> None:
    """Warn of whatever the HTML of a page fetches from elsewhere, and of lists shown as text."""
    for found in ABSENT.finditer(output):
        warn(f"{name} fetches from another host: {found[0]}")
    for found in LOST_LIST.finditer(output):
        warn(f"{name} shows a list as text, as it has no empty line before: {found[0][-80:]!r}")
