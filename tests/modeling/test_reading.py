"""The examples of the page on reading run as they are written, one after the other, and give what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fakes
import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/reading.md").read_text("utf-8")
CHECKS = """
assert (image.shape, str(image.dtype)) == ((600, 56, 56), "uint8")
assert first.shape == last.shape == (56, 56) and some.shape == (3, 56, 56)
assert list(sample) == ["image", "mask", "label", "source", "digest"]
assert batch["image"].shape[1:] == (56, 56) and whole.shape == (600, 2, 2)
assert buffers["image"].any() and (buffers["image"][2] == train[9]["image"]).all()
assert str(images.dtype) == "torch.uint8" and tuple(images.shape[1:]) == (56, 56)
print("checked")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reading")
    fakes.tiny(place, name="data/mnist")
    return place


def test_every_block_of_python_runs_as_written(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 7
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join([*blocks, CHECKS])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("checked\n")


def test_the_exit_codes_are_those_of_the_errors() -> None:
    from modeling import errors

    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for name, code in rows:
        assert getattr(errors, name).exit_code == int(code)
