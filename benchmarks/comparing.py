"""Make the tables of docs/comparison.md and of docs/reading.md from results/loader*.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]

_DAMAGE = {"error": "an error", "crash": "a crash", "all samples right": "nothing: all right"}


def peers(facts: Facts) -> str:
    """Make the table of writing, memory and reading."""
    columns = (
        *("kept by", "write, wall", "write, processor", "MB on disk", "writer, MiB"),
        *("reader, MiB", "in order, samples/s", "shuffled, samples/s"),
    )
    rows = []
    for name, one in facts["peers"].items():
        rates, own = one["samples_per_s"], one["own_mib"]
        rows.append(
            (
                f"{name} ({one['version']})",
                *(f"{one['write'][kind]:.2f} s" for kind in ("wall_s", "cpu_s")),
                f"{one['bytes_of_columns'] / 1e6:,.1f}",
                *(f"{own[kind]:,.0f}" for kind in ("writer", "reader")),
                *(f"{rates[kind]['cpu']:,}" for kind in ("sequential", "shuffled")),
            )
        )
    lines = _table(("not measured", "why"), facts["not_measured"].items())
    missing = ["", *lines] if facts["not_measured"] else []
    return "\n".join([_head(facts), *_table(columns, rows), *missing]) + "\n"


_LOADER = "ours, the loader of training"
_FEW = {"FFCV": "FFCV", "h5py, chunks of 512": "h5py"}


def few(facts: Facts) -> list[tuple[str, str]]:
    """Make the rows of the README: some peers, and where ours is slower."""
    peers = facts["peers"]
    rates = {name: peers[name]["samples_per_s"]["shuffled"]["cpu"] for name in (_LOADER, *_FEW)}
    spent = {name: peers[name]["write"]["wall_s"] for name in (_LOADER, *_FEW)}
    read_by = "; ".join(f"{shown} {rates[name]:,}" for name, shown in _FEW.items())
    written_by = "; ".join(f"{shown} {spent[name]:.1f} s" for name, shown in _FEW.items())
    read = f"{facts['samples']:,} mosaics read shuffled by one thread, samples/s"
    return [
        (f"{read} ([others](docs/comparison.md))", f"{rates[_LOADER]:,}; {read_by}"),
        ("... written", f"{spent[_LOADER]:.1f} s, with proof; {written_by}"),
    ]


def damage(facts: Facts) -> str:
    """Make the table of what reading everything says of damaged files."""
    kinds = ("byte flipped", "last 4 KiB cut")
    rows = [
        (name, *(_damage(one["damage"][kind]) for kind in kinds))
        for name, one in facts["peers"].items()
    ]
    return "\n".join(_table(("kept by", *kinds), rows)) + "\n"


def gathering(facts: Facts) -> str:
    """Make the table of the gather of mapped files in each state of the cache."""
    titles = {
        "fresh": "just written",
        "later": f"written {facts.get('wait_s', 0) / 60:.0f} minutes before",
        "cold": "dropped from the cache, then read by the epochs",
        "read": "dropped, then read by another program first",
    }
    rows = []
    for state, found in facts["states"].items():
        for name in ("ours", "one mapped .npy a column"):
            share = found["mapped_in_huge_pages"][name]
            ratio = found["cpu_over_floor"][name]
            rows.append(
                (
                    titles[state],
                    name,
                    f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                    f"{found['first_epoch_samples_per_wall_s'][name]:,}",
                    "not known" if share is None else f"{100 * share:.0f}%",
                )
            )
    columns = ("state of the files", "kept by", "over the floor", "first epoch, samples/s", "huge")
    return "\n".join([_head(facts), *_table(columns, rows)]) + "\n"


def _head(facts: Facts) -> str:
    machine, loads = facts["machine"], (facts["load_before"], facts.get("load_after"))
    before, after = (f"{load[0]:g}" if load else "not known" for load in loads)
    system = "-".join(machine["system"].split("-")[:2])
    return (
        f"{facts['samples']:,} mosaics, {facts['bytes_of_samples'] / 1e6:,.0f} MB, on "
        f"{machine['cores']} cores of a shared {machine['model']} ({system}),\n"
        f"with a load of {before} before and of {after} after.\n"
    )


def _damage(verdict: str) -> str:
    """Say in short what was seen.

    >>> _damage("error: ValueError: a long story")
    'an error (`ValueError`)'
    """
    kind, _, rest = verdict.partition(": ")
    rest = rest.replace("1 samples", "1 sample") if rest == "1 samples" else rest
    shown = _DAMAGE.get(kind, f"**{kind}**: {rest}")
    return f"{shown} (`{rest.partition(':')[0]}`)" if kind == "error" else shown


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return [head, "|---" * len(columns) + "|", *body]
