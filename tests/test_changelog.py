"""The changelog begins with what is not released yet, then the version that the package tells."""

from __future__ import annotations

import re

from isolation import ROOT

from datagen.layout import VERSION


def test_the_newest_versions_come_first() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", VERSION]
    assert len(headings) == len({*headings})
