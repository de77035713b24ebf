"""The end of the page: what was trained on what, where, by which versions, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modeling.data.dataset import Dataset
from modeling.report.markup import Markup, details, table, tag
from modeling.report.run import Record
from modeling.report.shown import Shown
from modeling.spelling import duration


def evidence_part(shown: Sequence[Shown], dataset: Dataset) -> Markup:
    """A table of facts and one of settings for each run."""
    told = f"The pictures and the errors by distance are of the dataset {dataset.digest}."
    parts = [part for each in shown for part in _run(each)]
    return tag(
        "section", tag("h2", "Evidence"), tag("p", told, class_="long"), *parts, id="evidence"
    )


def _run(shown: Shown) -> list[Markup]:
    run = shown.run
    settings = [[name, _plain(value)] for name, value in run.config.items()]
    config = details(
        "Settings",
        table(f"Settings of {run.task}", [["setting", "value"], *settings], class_="facts"),
    )
    facts = [["trained on dataset", run.digest], *(_facts(run.evidence) if run.evidence else ())]
    if shown.best is not None:
        best = shown.best
        facts.append(["best weights", f"of step {best['step']:,}, {best['weights']}"])
    return [
        tag("h3", run.task),
        table(
            f"How the network for {run.task} was trained",
            [["fact", "value"], *facts],
            class_="facts",
        ),
        config,
    ]


def _facts(evidence: Record) -> list[list[str]]:
    """The facts of a run's evidence, by what they are called on a page."""
    where, config, seconds = evidence["environment"], evidence["config"], evidence["seconds"]
    git = where["git"]
    rows: list[list[str]] = [
        ["source", evidence["dataset"]["source"]],
        ["preset and seed", f"{config['preset']}, {config['seed']}"],
        ["steps", f"{evidence['step']:,} of {config['steps']:,}, {evidence['epochs']:.2f} epochs"],
        ["parameters", f"{evidence['parameters']:,}"],
        ["device", f"{where['device']}, {where['system']}, {where['precision']}"],
        ["threads and ranks", f"{where['threads']}, {where['ranks']}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in where["versions"].items())],
        ["time", ", ".join(f"{kind} {duration(spent)}" for kind, spent in seconds.items())],
        [
            "resumed",
            ", ".join(f"at step {each['step']:,}" for each in evidence["resumed"]) or "never",
        ],
    ]
    if git:
        rows.append(
            ["code", f"commit {git['commit']}{', changed since' if git['changed'] else ''}"]
        )
    return rows


def _plain(value: Any) -> str:
    return ", ".join(str(each) for each in value) if isinstance(value, list) else str(value)
