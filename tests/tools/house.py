"""Measure the house: how many modules, how long, how deep, and how plain.

Run `python tests/tools/house.py` in a checkout. It reads source files as text and imports nothing
of the project. Statements are those of the syntax tree, docstrings left out.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("datagen", "modeling")
WIDTH = 100  # characters of a line of code or prose
SHORT = 50  # lines; a module below is a paragraph, not a sitting

_VAGUE = re.compile(r"(What|Where|Whether|Which)\b")
_EXEMPT = re.compile(r"^\s*\||https?://|[0-9a-f]{32}")  # tables, addresses, digests
_Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def modules(root: Path) -> dict[str, Path]:
    """Find the modules of both packages: dotted name -> file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.Module, known: Mapping[str, Path]) -> set[str]:
    """List the modules of the project that a module imports at module level, type checks aside."""
    found: set[str] = set()
    for node in _module_level(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            # A package's own __init__ counts only where a name of it is imported.
            whole = len(inner) < len(node.names) and node.module in known
            found |= inner | ({node.module} if whole else set())
    return found


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


def longest_chain(graph: Mapping[str, set[str]], package: str) -> list[str]:
    """Follow imports within a package to the longest chain of modules that has no circle."""

    @cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *_longest(chain(other) for other in sorted(graph[name]) if inside(other)))

    def inside(name: str) -> bool:
        return name == package or name.startswith(f"{package}.")

    return list(_longest(chain(name) for name in graph if inside(name)))


def _longest(chains: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return max(chains, key=len, default=())


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """List the groups of modules that import each other in a circle."""

    @cache
    def reach(name: str) -> frozenset[str]:
        seen: set[str] = set()
        waiting = list(graph[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += graph[other]
        return frozenset(seen)

    looped = [name for name in graph if name in reach(name)]
    groups = {frozenset(other for other in looped if other in reach(name)) for name in looped}
    return sorted(map(sorted, groups))


def statements(tree: ast.Module) -> int:
    """Count the statements of a module, docstrings left out."""
    count = sum(isinstance(node, ast.stmt) for node in ast.walk(tree))
    return count - sum(ast.get_docstring(node) is not None for node in _scopes(tree))


def vague_docstrings(tree: ast.Module) -> list[int]:
    """List the lines of definitions whose docstring begins with What, Where, Whether or Which."""
    scopes = [node for node in _scopes(tree) if _VAGUE.match(ast.get_docstring(node) or "")]
    return [getattr(node, "lineno", 1) for node in scopes]


def _scopes(tree: ast.Module) -> list[_Scope]:
    return [node for node in ast.walk(tree) if isinstance(node, _Scope)]


def long_lines(path: Path) -> list[int]:
    """List the lines over 100 characters; tables, addresses and digests are exempt."""
    lines = path.read_text("utf-8").splitlines()
    return [
        number
        for number, line in enumerate(lines, 1)
        if len(line) > WIDTH and not _EXEMPT.search(line)
    ]


def measure(root: Path) -> dict[str, object]:
    """Measure the checkout in `root`; the keys are the rows of the table in docs/development.md."""
    files = modules(root)
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files.items()}
    graph = {name: imports(tree, files) - {name} for name, tree in trees.items()}
    loops = circles(graph)
    chains = {} if loops else {package: longest_chain(graph, package) for package in PACKAGES}
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in files.items()}
    short = [
        name for name, path in files.items() if path.name != "__init__.py" and lines[name] < SHORT
    ]
    prose = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    code = [path for folder in ("tests", "benchmarks") for path in (root / folder).rglob("*.py")]
    wide = {path: long_lines(path) for path in [*files.values(), *sorted(code), *prose]}
    vague = {name: vague_docstrings(tree) for name, tree in trees.items()}
    readme = (root / "README.md").read_text("utf-8")
    return {
        "modules": len(files),
        "lines": sum(lines.values()),
        "statements": sum(map(statements, trees.values())),
        **{f"modules in the longest chain of imports: {name}": chains[name] for name in chains},
        "circles of imports": loops,
        "modules under 50 lines": short,
        "lines over 100 characters": {
            str(path.relative_to(root)): numbers for path, numbers in wide.items() if numbers
        },
        "docstrings that begin with What, Where, Whether or Which": {
            name: numbers for name, numbers in vague.items() if numbers
        },
        "README lines": len(readme.splitlines()),
        "README words": len([word for word in readme.split() if re.search(r"\w", word)]),
    }


if __name__ == "__main__":
    json.dump(measure(Path(sys.argv[1] if len(sys.argv) > 1 else ".")), sys.stdout, indent=2)
    print()
