"""Training: a pure function of configuration, dataset and environment, that can be killed at any
moment and go on.

All that is random at a step is keyed by (seed, step), so that a checkpoint needs no state of a
generator. A run that was killed and resumed has, on a CPU, the bits of one that was not.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from modeling import runs
from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.data.manifest import require_outside
from modeling.data.order import Order
from modeling.errors import TrainingError
from modeling.files import absolute, hold, make_folder, write_json
from modeling.networks.compiling import compile_network, compiling, require_compiler
from modeling.networks.precision import choose_precision, exact_products
from modeling.runs import checkpoint
from modeling.runs.info import RunInfo, describe, environment, same_bits
from modeling.tasks import TASKS, Batch, Task
from modeling.training.cudagraph import CudaGraph, Recorded, Work
from modeling.training.distributed import Ranks, joined
from modeling.training.evaluation import evaluate
from modeling.training.loader import Loader
from modeling.training.meter import LESS, Meter, Pace
from modeling.training.state import State, key
from modeling.training.step import RATES, Step

Record = dict[str, Any]
Listener = Callable[[Record], None]


def train(
    dataset: Dataset,
    config: Config,
    out: Path | str,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = 30.0,
    task: Task | None = None,
    replay: bool = True,
) -> RunInfo:
    """Train the task of `config` on `dataset` in the folder `out`, and say how it went.

    With `resume`, a run that is there goes on from its last checkpoint. `listeners` are given each
    record of the log. `stop` is asked between steps: where it says so, a checkpoint is written and
    the evidence is that of an unfinished run. On a GPU the steps are recorded once and replayed,
    unless `replay` is false, which changes but their time. Under torchrun every rank calls this
    alike. Raises InputError where a run is there already or does not fit, or where the folder lies
    in a dataset or the machine cannot compute as `config` says, BusyError where another process
    trains there, TrainingError where a loss is no number or a rank is gone.
    """
    out = absolute(out)
    require_outside(out)
    with joined(torch.device(device)) as ranks, contextlib.ExitStack() as stack:
        precision = choose_precision(
            config.precision, ranks.device, compiled=config.compile != "none"
        )
        require_compiler(config.compile, ranks.device)
        stack.enter_context(
            torch.random.fork_rng([ranks.device] if ranks.device.type == "cuda" else [])
        )
        stack.enter_context(_deterministic(ranks.device))
        stack.enter_context(_stream(ranks.device))
        begun = ranks.agree(lambda: _begin(out, config, dataset.digest, resume=resume, stack=stack))
        run = _Run(
            dataset, config, task or TASKS[config.task], ranks, out, precision, replay=replay
        )
        if begun is not None:
            with runs.in_run(out):
                run.restore(*begun)
        if not ranks.first:
            return run.go_on((), stop, checkpoint_seconds)
        log = stack.enter_context(contextlib.closing(runs.Log(out, run.step)))
        return run.go_on((log, *listeners), stop, checkpoint_seconds)


def rate_factor(step: int, config: Config) -> float:
    """What the learning rates are scaled by at a step: a linear warm-up, then half a cosine down to
    0.
    """
    if step < config.warmup:
        return (step + 1) / config.warmup
    rest = config.steps - config.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / rest))


def _begin(
    out: Path, config: Config, digest: str, *, resume: bool, stack: contextlib.ExitStack
) -> Any:
    """The run's last checkpoint, if it has one; its folder is held for as long as `stack` is
    open.
    """
    make_folder(out)
    stack.enter_context(hold(out))
    return runs.begin(out, config, digest, resume=resume)


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a CPU, only operations whose result does not hang on timing, and no number below 2^-126
    that is not 0; on a GPU, the fastest convolutions. On both, exact products of float32: in TF32,
    counts of pixels would not stay whole.

    Numbers that small come up where gradients of units that died fade out in the optimiser.
    Processors compute with them in microcode: the last steps of the circles took ten times as long
    as the first.
    """
    settings: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = settings.fill_uninitialized_memory
    chooses, flushes = torch.backends.cudnn.benchmark, flushes_denormals()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        torch.use_deterministic_algorithms(True)
        # a help in finding errors, paid for at every step
        settings.fill_uninitialized_memory = False
        torch.set_flush_denormal(True)
    try:
        with exact_products():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = chooses
        torch.set_flush_denormal(flushes)


def _stream(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """On a GPU, work is queued in a stream of its own: the default one cannot be recorded."""
    return (
        torch.cuda.stream(torch.cuda.Stream(device))
        if device.type == "cuda"
        else contextlib.nullcontext()
    )


def _recorded(step: Step, generator: torch.Generator, ranks: Ranks) -> Work:
    """The step, or on a GPU one that is recorded; not of several ranks, which may wait for each
    other in vain.
    """
    if ranks.device.type != "cuda" or ranks.count > 1:
        return step
    return Recorded(step, CudaGraph(generator))


def flushes_denormals() -> bool:
    """Whether this thread takes numbers below 2^-126 for 0."""
    return not bool(torch.full((1,), 2.0**-130) * 1)


class _Run:
    """A run between its steps: the state, and all that its evidence tells."""

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        task: Task,
        ranks: Ranks,
        out: Path,
        precision: str,
        *,
        replay: bool,
    ) -> None:
        self.config, self.task, self.ranks, self.out = config, task, ranks, out
        self.step, self.begun = 0, False  # no step was taken yet in this process
        # the averaged weights that scored best, and the evidence of their step
        self.best: dict[str, Any] | None = None
        self.published: dict[str, Any] | None = None
        self.state = State(task, config, describe(dataset), ranks.device)
        self.train_split, self.val_split = (
            dataset.split(task.name, "train"),
            dataset.split(task.name, "val"),
        )
        self.order = Order(len(self.train_split), config.seed, config.batch)
        self.generator = torch.Generator(ranks.device)
        self.precision = precision
        self.meter = Meter(out)
        forward = compile_network(self.state.model, config.compile)
        rates = [
            self.state.optimizer.rates(step, rate_factor(step, config))
            for step in range(config.steps)
        ]
        self.rates = torch.stack(rates).to(ranks.device)
        step = Step(task, config, self.state, forward, self.generator, ranks, self.precision)
        self.take: Work = _recorded(step, self.generator, ranks) if replay else step
        self.evidence = RunInfo(
            task=task.name,
            config=config.to_json(),
            dataset=describe(dataset),
            environment=environment(ranks.device, self.precision, ranks.count),
            parameters=sum(parameter.numel() for parameter in self.state.parameters),
            step=0,
            epochs=0.0,
            seconds={"loading": 0.0, "training": 0.0, "evaluating": 0.0, "saving": 0.0},
            history=[],
            best=None,
            resumed=[],
            weights="",
        )
        self.pace = Pace(0, config.steps, self.evidence.seconds)

    def restore(self, tree: dict[str, Any], facts: dict[str, Any]) -> None:
        """Take up where the checkpoint of these contents was written."""
        self.state.restore(tree)
        before = RunInfo.from_json(facts)
        if not before.finished:
            now = self.evidence.environment
            resumed = {
                "step": before.step,
                "same_environment": same_bits(before.environment, now),
                "before": before.environment,
            }
            before = replace(before, environment=now, resumed=[*before.resumed, resumed])
        self.step, self.evidence = before.step, before
        self.pace = Pace(self.step, self.config.steps, before.seconds)
        self.best = tree.get("best")
        if self.ranks.first:
            self._publish()  # the run may have died between its checkpoint and this

    def go_on(
        self, listeners: Sequence[Listener], stop: Callable[[], bool], checkpoint_seconds: float
    ) -> RunInfo:
        """Train to the last step, or until `stop`."""

        def tell(record: Record) -> None:
            for listener in listeners:
                listener(record)

        if self.evidence.finished:
            return self.evidence
        if self.evidence.resumed:
            tell({"step": self.step, "resumed": self.evidence.resumed[-1]})
        saved = time.perf_counter()
        for batch in self._batches():
            self._train_on(batch)
            stopping = self.ranks.any(stop())
            due = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
            if due or self.step % self.config.log_every == 0:
                tell(self._record())
            if due:
                tell(self._evaluate())
            if due or stopping or time.perf_counter() - saved >= checkpoint_seconds:
                self._save()
                saved = time.perf_counter()
            if stopping:
                break
        return self.evidence

    def _batches(self) -> Iterator[Batch]:
        """The batches from the present step to the last, of all ranks together."""
        loader = Loader(self.train_split, self.task.columns, self.order, self.ranks.device)
        self.pace.lap("loading")
        while self.step < self.config.steps:
            epoch, position = divmod(self.step, self.order.steps)
            yield from itertools.islice(
                loader.epoch(epoch, position), self.config.steps - self.step
            )

    def _train_on(self, batch: Batch) -> None:
        """Take one step."""
        moment, factor = key(self.config.seed, self.step), rate_factor(self.step, self.config)
        torch.manual_seed(moment)
        self.generator.manual_seed(moment)
        inputs = {**batch, RATES: self.rates[self.step]}
        if self.begun:
            losses = self.take(inputs)
        else:  # the network is compiled by its first call
            with compiling(self.config.compile):
                losses = self.take(inputs)
            self.begun = True
        self.state.follow(self.step)
        self.meter.add(self.step, self.config.learning_rate * factor, losses)
        self.pace.see(len(batch["image"]))
        self.step += 1

    def _record(self) -> Record:
        """A line of the log: means since the last one, over all ranks."""
        gathered = self.ranks.gather(self.meter.means())
        self.pace.lap("training")
        names = dict.fromkeys(name for means in gathered for name in means)
        return {
            "step": self.step,
            **{name: sum(means.get(name, 0.0) for means in gathered) for name in names},
            "learning_rate": self.config.learning_rate * rate_factor(self.step - 1, self.config),
            "samples_per_second": round(self.pace.rate(), 1),
            "seconds_left": round(self.pace.left(self.step), 1),
        }

    def _evaluate(self) -> Record:
        """Score the averaged weights on val; keep them if they are the best so far."""
        count = min(self.config.val_samples or len(self.val_split), len(self.val_split))
        self._require_finite()
        scores = evaluate(
            self.task,
            self.state.average,
            self.val_split,
            count,
            self.ranks,
            precision=self.precision,
        )
        self.pace.lap("evaluating")
        entry = {"step": self.step, "samples": count, "scores": scores}
        best = self.evidence.best
        self.evidence = replace(self.evidence, history=[*self.evidence.history, entry])
        if best is None or self._headline(entry) >= self._headline(
            best
        ):  # of equals the one that averages more steps
            self.evidence = replace(self.evidence, best=entry)
            self._update_evidence()
            weights = {
                name: tensor.clone() for name, tensor in self.state.average.state_dict().items()
            }
            self.best = {"average": weights, "evidence": self.evidence.to_json()}
        return {"step": self.step, "val": scores, "best": self.evidence.best is entry}

    def _headline(self, entry: Record) -> float:
        value = entry["scores"][self.task.main_metric]
        return -math.inf if value is None else float(value)

    def _require_finite(self) -> None:
        """Raise TrainingError rather than let weights that are no numbers replace good ones."""
        self.meter.check()
        if not self.state.is_finite():
            raise TrainingError(
                f"the weights are not finite after step {self.step - 1}",
                path=self.out,
                remedy=f"the last checkpoint stays as it was; {LESS}",
            )

    def _save(self) -> None:
        """Make the present state the one to go on from."""
        self._require_finite()
        self.pace.lap("training")
        self._update_evidence()
        if self.ranks.first:
            tree = {**self.state.tree(), "best": self.best}
            checkpoint.save(self.out / runs.LAST, tree, self.evidence.to_json())
            self._publish()
        self.pace.lap("saving")

    def _publish(self) -> None:
        """Write what others read: the best weights if they are new, and the evidence. The
        checkpoint has both.
        """
        if self.best is not None and self.published is not self.best:
            checkpoint.save(
                self.out / runs.BEST, {"average": self.best["average"]}, self.best["evidence"]
            )
            self.published = self.best
        write_json(self.out / runs.EVIDENCE, self.evidence.to_json())

    def _update_evidence(self) -> None:
        self.evidence = replace(
            self.evidence,
            step=self.step,
            epochs=self.step / self.order.steps,
            seconds={kind: round(spent, 3) for kind, spent in self.pace.seconds.items()},
            weights=checkpoint.weights_digest(self.state.average.state_dict()),
        )
