"""The README's table of speed, written from the evidence in results/, so that the two cannot drift apart.

`python benchmarks/table.py` writes it; a test holds the README to what `table` returns.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MARKS = "<!-- speed -->\n", "<!-- /speed -->"


def table(results: Path = ROOT / "results") -> str:
    """The table in Markdown, from build.json, verify.json and uniqueness.json."""
    build = json.loads((results / "build.json").read_text("utf-8"))
    verify = json.loads((results / "verify.json").read_text("utf-8"))
    unique = json.loads((results / "uniqueness.json").read_text("utf-8"))
    ten = build["ten_times_the_mosaics"]
    machine = build["machine"]
    rows = [
        ("`datagen build`, all three datasets, fsync and digests included", _spread(build["build"]["wall_s"], "s")),
        ("... over `cp -r` and `sync` of the result", _spread(build["build_over_copy"], "times")),
        ("... a mosaic, beside the usual loop (draw, stack, Otsu, two PNG files)", _beside_loop(build)),
        ("... peak memory, all threads", _spread(build["build"]["peak_mib"], "MiB")),
        ("... with ten times as many mosaics", f"{ten['peak_over_base']:g} times the memory, {_cpu(ten)}"),
        ("`datagen build` of a whole dataset: nothing to do", _spread(build["build_again"]["wall_s"], "s")),
        ("`datagen verify`, every byte and every sample", _spread(verify["full"]["wall_s"], "s")),
        ("... over `sha256sum` of the same files", _spread(verify["full_over_sha256sum"], "times")),
        ("... peak memory", _spread(verify["full"]["peak_mib"], "MiB")),
        ("`datagen verify --quick`", _spread(verify["quick"]["wall_s"], "s")),
        ("`datagen verify --sample 1000`", _spread(verify["sample_1000"]["wall_s"], "s")),
        ("equal digests among 100 million", f"{unique['wall_s']:.0f} s, {unique['peak_mib']:,.0f} MiB"),
    ]
    head = (
        f"`make bench` on {machine['cores']} cores of a shared {machine['model']} ({machine['system'].split('-')[0]}), "
        f"Python {machine['python']}, {build['workers']} workers, {build['bytes'] / 1e9:.2f} GB, "
        f"dataset `{build['digest'][:12]}`, seed 0: median of {build['rounds']} alternating runs "
        f"({verify['rounds']} of verify), "
        "in brackets the least and the most. The evidence is in [results/](results/), "
        "the limits are in [docs/speed.md](docs/speed.md).\n"
    )
    lines = ["| what | measured |", "|---|---|", *(f"| {what} | {measured} |" for what, measured in rows)]
    return "\n".join([head, *lines]) + "\n"


def readme() -> str:
    """The README with the table of now."""
    text = (ROOT / "README.md").read_text("utf-8")
    begin, end = map(re.escape, MARKS)
    return re.sub(f"({begin}).*?({end})", lambda found: found[1] + table() + found[2], text, flags=re.DOTALL)


def _spread(values: dict[str, float], unit: str) -> str:
    shown = {name: f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for name, value in values.items()}
    return f"{shown['median']} {unit} ({shown['min']} to {shown['max']})"


def _beside_loop(build: dict[str, Any]) -> str:
    loop = build["user_loop_us_a_sample"]["median"]
    return f"{build['build_us_a_mosaic']:.1f} us, {build['faster_than_user_loop']:.0f} times faster than {loop:.0f} us"


def _cpu(ten: dict[str, Any]) -> str:
    return f"{ten['cpu_over_base']:g} times the processor time"


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), "utf-8")
