"""Changelog and citation name the version of the package."""

from __future__ import annotations

import re

from isolation import ROOT

from datagen.layout import VERSION


def test_the_newest_versions_come_first() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", VERSION]
    assert len(headings) == len({*headings})


def test_the_citation_is_complete_and_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    fields = dict(re.findall(r"^([a-z-]+): (.+)$", text, re.MULTILINE))
    assert fields["cff-version"] == "1.2.0"
    assert fields["version"] == VERSION
    assert (fields["type"], fields["license"]) == ("software", "MIT")
    assert fields["title"] and fields["message"]
    assert re.search(r"^authors:\n  - name: .+$", text, re.MULTILINE)
