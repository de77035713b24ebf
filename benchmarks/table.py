"""The tables of the README and of docs/ that are written from the evidence in results/: the two
cannot drift apart.

`python benchmarks/table.py` writes them; a test holds the pages to what `pages` returns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ablation
import paper

from modeling.scoring.tables import REFERENCE

ROOT = Path(__file__).parent.parent

# What is shown of the scores, and what it is called in the table.
SCORES = {
    "foreground": {"iou": "foreground IoU, mean over images", "iou_pooled": "... pooled"},
    "circles": {
        "accuracy": "circles, accuracy",
        "gated_iou": "circles, IoU, 0 where the class is wrong, mean over images",
        "gated_iou_pooled": "... pooled",
        "iou": "... whatever the class, mean over images",
    },
    "mosaics": {
        "dice": "mosaics, Dice, pooled, 11 classes",
        "dice_foreground": "... without background",
        "dice_per_image_in_truth": "... mean over images, of the classes in each",
        "dice_per_image": "... and of those in its prediction",
    },
}


def table(results: Path = ROOT / "results") -> str:
    """The table in Markdown, from build.json, verify.json and uniqueness.json."""
    build = json.loads((results / "build.json").read_text("utf-8"))
    verify = json.loads((results / "verify.json").read_text("utf-8"))
    unique = json.loads((results / "uniqueness.json").read_text("utf-8"))
    ten = build["ten_times_the_mosaics"]
    machine = build["machine"]
    rows = [
        (
            "`datagen build`, all three datasets, fsync and digests included",
            _spread(build["build"]["wall_s"], "s"),
        ),
        ("... over `cp -r` and `sync` of the result", _spread(build["build_over_copy"], "times")),
        (
            "... a mosaic, beside the usual loop (draw, stack, Otsu, two PNG files)",
            _beside_loop(build),
        ),
        ("... peak memory, all threads", _spread(build["build"]["peak_mib"], "MiB")),
        (
            "... with ten times as many mosaics",
            f"{ten['peak_over_base']:g} times the memory, {_cpu(ten)}",
        ),
        (
            "`datagen build` of a whole dataset: nothing to do",
            _spread(build["build_again"]["wall_s"], "s"),
        ),
        ("`datagen verify`, every byte and every sample", _spread(verify["full"]["wall_s"], "s")),
        ("... over `sha256sum` of the same files", _spread(verify["full_over_sha256sum"], "times")),
        ("... peak memory", _spread(verify["full"]["peak_mib"], "MiB")),
        ("`datagen verify --quick`", _spread(verify["quick"]["wall_s"], "s")),
        ("`datagen verify --sample 1000`", _spread(verify["sample_1000"]["wall_s"], "s")),
        (
            "equal digests among 100 million",
            f"{unique['wall_s']:.0f} s, {unique['peak_mib']:,.0f} MiB",
        ),
    ]
    head = (
        f"`make bench` on {machine['cores']} cores of a shared {machine['model']} ({machine['system'].split('-')[0]}), "
        f"Python {machine['python']}, {build['workers']} workers, {build['bytes'] / 1e9:.2f} GB, "
        f"dataset `{build['digest'][:12]}`, seed 0: median of {build['rounds']} alternating runs "
        f"({verify['rounds']} of verify), "
        "in brackets the least and the most. The evidence is in [results/](results/), "
        "the limits are in [docs/speed.md](docs/speed.md).\n"
    )
    lines = [
        "| what | measured |",
        "|---|---|",
        *(f"| {what} | {measured} |" for what, measured in rows),
    ]
    return "\n".join([head, *lines]) + "\n"


def scores(results: Path = ROOT / "results") -> str:
    """The table of scores on the test digits in Markdown, from training.json."""
    facts = json.loads((results / "training.json").read_text("utf-8"))
    machine, run = facts["machine"], facts["runs"][0]["tasks"]["mosaics"]
    head = (
        f"`{facts['command']}` on {machine['cores']} cores of a shared {machine['model']} "
        f"({machine['system'].split('-')[0]}), no GPU, torch {run['environment']['versions']['torch']}, "
        f"dataset `{run['dataset']['digest'][:12]}`. The official test digits: n = 10,000, and "
        f"{run['scores']['test']['dice']['n']:,} mosaics of them; weights chosen on val. `make train-all` took "
        f"{_minutes(facts['wall_s'])}, and {_minutes(facts['cpu_s'])} of processor time; "
        f"other machines on the same hardware took {_share(facts['stolen'])} of the cores meanwhile.\n"
    )
    rows = [
        (title, facts["test"][task][name], REFERENCE[task].get(name))
        for task, names in SCORES.items()
        for name, title in names.items()
    ]
    lines = ["| score on test | to beat | mean of the seeds | least to most |", "|---|---|---|---|"]
    for title, found, reference in rows:
        least, mean, most = (f"{100 * found[part]:.2f}%" for part in ("min", "mean", "max"))
        due = "" if reference is None else f"{100 * reference:.2f}%"
        lines.append(f"| {title} | {due} | {mean} | {least} to {most} |")
    return "\n".join([head, *lines]) + "\n"


def _told(name: str, made: Callable[[Any], str]) -> Callable[[], str]:
    """A table made of one file of evidence."""
    return lambda: made(json.loads((ROOT / "results" / name).read_text("utf-8")))


# By page and by the name that the comments around a table have.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"speed": table, "scores": scores},
    "docs/models.md": {"ablation": _told("ablation.json", ablation.tables)},
    "docs/gpu.md": {"paper": _told("paper.json", paper.table)},
}


def pages() -> dict[str, str]:
    """Each page with its tables of now."""
    return {page: _page(page) for page in TABLES}


def _page(page: str) -> str:
    text = (ROOT / page).read_text("utf-8")
    for name, made in TABLES[page].items():
        before, after = (re.escape(mark) for mark in (f"<!-- {name} -->\n", f"<!-- /{name} -->"))
        written = made().replace("\\", r"\\")
        text, found = re.subn(f"(?<={before}).*?(?={after})", written, text, flags=re.DOTALL)
        if found != 1:
            raise ValueError(f"{page} has {found} places for the table {name}, expected 1")
    return text


def _minutes(seconds: dict[str, float]) -> str:
    return f"{seconds['median'] / 60:.1f} minutes ({seconds['min'] / 60:.1f} to {seconds['max'] / 60:.1f})"


def _share(shares: dict[str, float]) -> str:
    return (
        f"{100 * shares['median']:.0f}% ({100 * shares['min']:.0f} to {100 * shares['max']:.0f}%)"
    )


def _spread(values: dict[str, float], unit: str) -> str:
    shown = {
        name: f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for name, value in values.items()
    }
    return f"{shown['median']} {unit} ({shown['min']} to {shown['max']})"


def _beside_loop(build: dict[str, Any]) -> str:
    loop = build["user_loop_us_a_sample"]["median"]
    return f"{build['build_us_a_mosaic']:.1f} us, {build['faster_than_user_loop']:.0f} times faster than {loop:.0f} us"


def _cpu(ten: dict[str, Any]) -> str:
    return f"{ten['cpu_over_base']:g} times the processor time"


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / name).write_text(text, "utf-8")
