"""Write the tables of the README and of docs/ from the measurements in results/.

`python benchmarks/table.py` writes them; a test compares the pages with what `pages` returns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ablation
import comparing
import paper

from modeling.scoring.tables import REFERENCE

ROOT = Path(__file__).parent.parent

# Rows of the README: score, definition.
SHORT_SCORES = {
    "foreground": {"iou": ("foreground IoU", "overlap / union of the masks, mean over images")},
    "circles": {
        "accuracy": ("circles, accuracy", "images of the right class / images"),
        "gated_iou": ("circles, gated IoU", "overlap / union, 0 where the class is wrong"),
    },
    "mosaics": {"dice": ("mosaics, Dice", "2 x overlap / sum of both sizes, mean over 11 labels")},
}
# Rows of docs/models.md: score -> title.
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
    """Make the whole table of speed, in Markdown, from build, verify and uniqueness.json."""
    build, verify, unique = (_read(results, name) for name in ("build", "verify", "uniqueness"))
    ten = build["ten_times_the_mosaics"]
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
        f"`make bench` on {_machine(build)}, Python {build['machine']['python']},\n"
        f"{build['workers']} workers, {build['bytes'] / 1e9:.2f} GB, "
        f"dataset `{build['digest'][:12]}`, seed 0: median of {build['rounds']} alternating runs\n"
        f"({verify['rounds']} of verify), in brackets the least and the most. "
        "The measurements are in [results/](../results/).\n"
    )
    return "\n".join([head, *_table(("measured", "result"), rows)]) + "\n"


def short_table(results: Path = ROOT / "results") -> str:
    """Make the README's rows of speed, in Markdown."""
    build, verify = (_read(results, name) for name in ("build", "verify"))
    rows = [
        ("`datagen build --recipe mnist`", _spread(build["build"]["wall_s"], "s")),
        (
            "... one mosaic, beside a usual loop (stack, Otsu, two PNG files)",
            _beside_loop(build),
        ),
        ("`datagen verify`, every byte and every sample", _spread(verify["full"]["wall_s"], "s")),
        ("`datagen verify --quick`", _spread(verify["quick"]["wall_s"], "s")),
        *comparing.few(_read(results, "loader")),
    ]
    head = (
        f"{build['bytes'] / 1e9:.2f} GB on {_cores(build)}: "
        f"medians (least to most) of {build['rounds']} runs.\n"
        "[docs/speed.md](docs/speed.md) has the whole table and the limits of the hardware.\n"
    )
    return "\n".join([head, *_table(("measured", "time"), rows)]) + "\n"


def short_scores(results: Path = ROOT / "results") -> str:
    """Make the README's four rows of scores, in Markdown."""
    facts = _read(results, "training")
    rows = [
        (title, meaning, f"{100 * REFERENCE[task][name]:.2f}%", _percent(facts, task, name))
        for task, names in SHORT_SCORES.items()
        for name, (title, meaning) in names.items()
    ]
    head = (
        f"Means (least to most) of {len(facts['runs'])} seeds; all three networks took "
        f"{facts['wall_s']['median'] / 60:.1f} minutes\non {_cores(facts)}, without a GPU.\n"
    )
    return "\n".join([head, *_table(("score", "definition", "reference", "reached"), rows)]) + "\n"


def scores(results: Path = ROOT / "results") -> str:
    """Make the whole table of scores on the test digits, in Markdown, from training.json."""
    facts = _read(results, "training")
    run = facts["runs"][0]["tasks"]["mosaics"]
    head = (
        f"`{facts['command']}`\non {_machine(facts)}, no GPU, "
        f"torch {run['environment']['versions']['torch']}, "
        f"dataset `{run['dataset']['digest'][:12]}`.\nThe official test digits: n = 10,000, and "
        f"{run['scores']['test']['dice']['n']:,} mosaics of them; weights chosen on val.\n"
        f"`make train-all` took {_minutes(facts['wall_s'])},\n"
        f"and {_minutes(facts['cpu_s'])} of processor time;\nother machines on the same hardware "
        f"took {_share(facts['stolen'])} of the cores meanwhile.\n"
    )
    rows = []
    for task, names in SCORES.items():
        for name, title in names.items():
            reference = REFERENCE[task].get(name)
            found = facts["test"][task][name]
            least, mean, most = (f"{100 * found[part]:.2f}%" for part in ("min", "mean", "max"))
            shown = "" if reference is None else f"{100 * reference:.2f}%"
            rows.append((title, shown, mean, f"{least} to {most}"))
    columns = ("score on test", "reference", "mean of the seeds", "least to most")
    return "\n".join([head, *_table(columns, rows)]) + "\n"


def kinds(facts: Mapping[str, Any]) -> str:
    """Make the table of kinds of images beside grey, in Markdown, from kinds.json."""
    seeds = list(facts["iou"]["grey"])
    train, _, test = facts["digits"]["grey"].values()
    command = " ".join(["python benchmarks/kinds.py", *(f"--set {one}" for one in facts["set"])])
    head = (
        f"`{command} --kinds {','.join(facts['iou'])}`\non {_machine(facts)}, no GPU, torch "
        f"{facts['torch']}; seeds {', '.join(seeds)};\n{train:,} strokes of train, n = {test:,} "
        "of test.\n"
    )
    rows = []
    for kind, found in facts["iou"].items():
        apart = "" if kind == "grey" else f"{100 * facts['from_grey'][kind]:+.3f}"
        each = ", ".join(f"{100 * value:.3f}" for value in found.values())
        rows.append((f"`{kind}`", f"{100 * facts['mean'][kind]:.3f}%", each, apart))
    columns = ("kind", "foreground IoU on test", "of each seed", "points from grey")
    return "\n".join([head, *_table(columns, rows)]) + "\n"


def tiles(facts: Mapping[str, Any]) -> str:
    """Make the table of large tiles, in Markdown, from tiles.json."""
    found = [facts["rgb"], facts["bands"]]
    rows: list[Sequence[str]] = [("bytes", *(f"{one['bytes'] / 1e9:.2f} GB" for one in found))]
    for name, title in {
        "build / cp -r + sync": "build, over `cp -r` and `sync` of the result",
        "verify / sha256sum": "verify, over `sha256sum` of the same files",
        "loader / numpy.take": "loader, over `numpy.take` on the same bytes in memory",
    }.items():
        rows.append((title, *(_spread(one[name], "times") for one in found)))
    for name in ("build", "verify"):
        rows.append((f"{name}, wall time", *(_spread(one[name]["wall_s"], "s") for one in found)))
        rows.append(("... processor time", *(_spread(one[name]["cpu_s"], "s") for one in found)))
        few = [one["memory"][0] for one in found]
        own = (f"{one[name]['own_mib']:,.0f} MiB" for one in few)
        rows.append((f"... its own memory, {few[0]['mosaics']:,} mosaics", *own))
        more = (f"{one['memory_at_ten_times'][name]:.2f} times as much" for one in found)
        rows.append(("... ten times as many", *more))
    head = (
        f"{found[0]['mosaics']:,} mosaics, on {_machine(facts)}:\n"
        "medians, in brackets the least and the most.\n"
    )
    columns = ("measured", "RGB of 8 bits", "four bands of 16 bits")
    return "\n".join([head, *_table(columns, rows)]) + "\n"


def large_sources(facts: Mapping[str, Any]) -> str:
    """Make the table of sources larger than memory may be, in Markdown."""
    titles = {
        "arrays": "an `.npz` of {:g} GB of images of 13 bands of 16 bits",
        "pictures": "a folder of {:g} GB of TIFF and PNG files of 16 bits",
        "slide": "one TIFF of {:g} GB, cut into tiles",
    }
    rows = []
    for kind, title in titles.items():
        shown = (
            f"{facts[kind][name][part]:,.0f} MiB"
            for name in ("build", "verify")
            for part in ("own_mib", "with_mapped_files_mib")
        )
        rows.append((title.format(facts[kind]["source_gb"]), *shown))
    columns = ("source", "build", "with mapped files", "verify", "with mapped files")
    head = f"On {_machine(facts)}:\n"
    return "\n".join([head, *_table(columns, rows)]) + "\n"


def objects(facts: Mapping[str, Any]) -> str:
    """Make the table of docs/objects.md, in Markdown."""
    push, pull, loader = (facts[name] for name in ("push", "pull", "loader"))
    rows = [
        ("`datagen push`", _spread(push["wall_s"], "s")),
        ("... over plain puts of the client", _interval(push)),
        ("`datagen pull`", _spread(pull["wall_s"], "s")),
        ("... over plain gets of the client", _interval(pull)),
        ("... its processor time", _spread(pull["cpu_s"], "s")),
        ("... that of plain gets", _spread(pull["plain_cpu_s"], "s")),
        ("ten epochs of mosaics from a warm cache, over ten from the folder", _interval(loader)),
    ]
    build = facts["build"]
    rows += [
        ("`datagen build --out URL`", _spread(build["wall_s"], "s")),
        ("... over a build in a folder and a push", _interval(build)),
    ]
    head = (
        f"{facts['bytes'] / 1e6:,.0f} MB in {facts['files']} files, on {_machine(facts)}: medians "
        f"of {facts['rounds']}\nalternating runs, in brackets the least and the most, or the 95% "
        "interval of a ratio.\n"
    )
    return "\n".join([head, *_table(("measured", "result"), rows)]) + "\n"


def engines(facts: Mapping[str, Any]) -> str:
    """Make the table of docs/scale.md, in Markdown."""
    usual, four = facts["default_recipe"], facts["four_times_the_mosaics"]
    killed = facts["one_of_two_workers_killed"]
    rows = [
        ("`datagen build` in two threads", _spread(usual["threads_wall_s"], "s")),
        ("... with `--engine dask`, two workers", _spread(usual["dask_wall_s"], "s")),
        ("... more than threads take", _spread(usual["dask_wall_minus_threads_s"], "s")),
        ("... its processor time over that of threads", _times(usual["dask_cpu_over_threads"])),
        ("four times the mosaics, over threads", _times(four["dask_wall_over_threads"])),
        (
            "one of two workers killed, over undisturbed",
            _times(killed["killed_over_undisturbed"]),
        ),
        ("... recorded shards made again", f"{killed['recorded_shards_made_again']:,}"),
    ]
    head = (
        f"The default recipe, on {_machine(facts)}: medians of {facts['rounds']}\n"
        "alternating runs, in brackets the least and the most.\n"
    )
    return "\n".join([head, *_table(("measured", "result"), rows)]) + "\n"


def _times(values: dict[str, float]) -> str:
    return _spread(values, "times")


def _interval(facts: Mapping[str, Any]) -> str:
    low, high = facts["over_plain_interval"]
    return f"{facts['over_plain']:.2f} times ({low:.2f} to {high:.2f})"


def _read(results: Path, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((results / f"{name}.json").read_text("utf-8"))
    return facts


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return [head, "|---" * len(columns) + "|", *body]


def _percent(facts: Mapping[str, Any], task: str, name: str) -> str:
    found = {part: f"{100 * value:.2f}" for part, value in facts["test"][task][name].items()}
    return f"{found['mean']}% ({found['min']} to {found['max']})"


def _from(name: str, made: Callable[[Any], str]) -> Callable[[], str]:
    """Make a table from one file of results."""
    return lambda: made(_read(ROOT / "results", name))


# Page -> name in the comments around a table -> the function that makes it.
TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "speed": short_table,
        "scores": short_scores,
    },
    "docs/speed.md": {
        "speed": table,
        "tiles": _from("tiles", tiles),
        "large-sources": _from("large-sources", large_sources),
    },
    "docs/models.md": {"scores": scores, "ablation": _from("ablation", ablation.tables)},
    "docs/own-images.md": {"kinds": _from("kinds", kinds)},
    "docs/gpu.md": {"paper": _from("paper", paper.table)},
    "docs/objects.md": {"objects": _from("objects", objects)},
    "docs/comparison.md": {
        "peers": _from("loader", comparing.peers),
        "damage": _from("loader", comparing.damage),
    },
    "docs/reading.md": {
        "states": _from("loader-states", comparing.gathering),
        "states-quarter": _from("loader-states-quarter", comparing.gathering),
    },
    "docs/scale.md": {"engines": _from("engines", engines)},
}


def pages() -> dict[str, str]:
    """Make each page with its tables as the results now are."""
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


def _cores(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    return f"{machine['cores']} cores of a shared {machine['model']}"


def _machine(facts: Mapping[str, Any]) -> str:
    return f"{_cores(facts)} ({facts['machine']['system'].split('-')[0]})"


def _minutes(seconds: dict[str, float]) -> str:
    median, least, most = (f"{seconds[part] / 60:.1f}" for part in ("median", "min", "max"))
    return f"{median} minutes ({least} to {most})"


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
    times = f"{build['faster_than_user_loop']:.0f} times faster than {loop:.0f} us"
    return f"{build['build_us_a_mosaic']:.1f} us, {times}"


def _cpu(ten: dict[str, Any]) -> str:
    return f"{ten['cpu_over_base']:g} times the processor time"


if __name__ == "__main__":
    for name, text in pages().items():
        (ROOT / name).write_text(text, "utf-8")
