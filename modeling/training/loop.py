"""The training loop: load, augment, forward, loss, backward, optimise, average, log, checkpoint.

`Trainer.run` is the loop and `Trainer.step` the part of it that a GPU captures as a graph. All
random numbers of a step derive from (seed, step), so a checkpoint holds no state of a generator. On
a CPU a run that was killed and resumed has the same bits as one that was not.
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

import numpy as np
import torch
from torch import Tensor

from modeling import runs
from modeling.config import Config
from modeling.data.dataset import Dataset
from modeling.data.order import Order
from modeling.errors import InputError, TrainingError, naming
from modeling.files import absolute, lock, make_folder, require_outside_datasets, write_json
from modeling.metrics import overall_values
from modeling.networks import compute
from modeling.runs import checkpoint
from modeling.runs.info import RunInfo, describe, environment, same_bits
from modeling.tasks import Batch, Task, infer, task_of
from modeling.tasks.probability import Sampler, Samples, fit_temperatures
from modeling.training.cudagraph import CapturedStep, CudaGraph, Step
from modeling.training.distributed import World, joined
from modeling.training.loader import Loader
from modeling.training.meter import NOT_FINITE, Meter, Stopwatch
from modeling.training.state import State, key

Record = dict[str, Any]
Listener = Callable[[Record], None]

_SCORED = ("label", "mask")  # the columns that scores need


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
    watch: Listener | None = None,
) -> RunInfo:
    """Train the task of `config` on `dataset` in the folder `out`; return the facts of the run.

    With `resume`, continue an existing run from its last checkpoint. Each record of the log goes to
    `listeners`. `stop` is called after every step; once it returns True, a checkpoint is written
    and the facts are those of an unfinished run. On a GPU, steps are captured once and replayed;
    with `replay` false they are not, which affects speed only. `watch` gets records that are not in
    the log: how far an evaluation is. Under torchrun, every rank calls this alike.

    Raises InputError if there is a run already, if it does not fit, if the folder is in a
    dataset, if the dataset does not have the task or its classes, or if the machine cannot compute
    as `config` says; BusyError if another process trains there; TrainingError if a loss is not
    finite or a rank is gone.
    """
    out = absolute(out)
    require_outside_datasets(out)
    require_task(dataset, config.task)
    with joined(torch.device(device)) as world, contextlib.ExitStack() as stack:
        compiled = config.compile != "none"
        precision = compute.choose_precision(config.precision, world.device, compiled=compiled)
        compute.require_compiler(config.compile, world.device)
        gpus = [world.device] if world.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(gpus))
        stack.enter_context(compute.training_settings(world.device))
        for gpu in gpus:  # the default stream cannot be captured
            stack.enter_context(torch.cuda.stream(torch.cuda.Stream(gpu)))

        def open_run() -> tuple[dict[str, Any], dict[str, Any]] | None:
            """Lock the folder until the end, and load the last checkpoint, if there is one."""
            make_folder(out)
            stack.enter_context(lock(out))
            return runs.begin(out, config, dataset.digest, resume=resume)

        last = world.agree(open_run)
        trainer = Trainer(
            dataset,
            config,
            task or task_of(config.task, describe(dataset)),
            world,
            out,
            precision,
            replay=replay,
        )
        trainer.watch = watch
        if last is not None:
            with naming(out):
                trainer.restore(*last)
        if not world.first:
            return trainer.run((), stop, checkpoint_seconds)
        log = stack.enter_context(contextlib.closing(runs.Log(out, trainer.steps_done)))
        return trainer.run((log, *listeners), stop, checkpoint_seconds)


def require_task(dataset: Dataset, task: str) -> None:
    """Raise InputError where the dataset does not have a task, or its classes, to train on."""
    if task in dataset:
        _require_classes(dataset, task)
        return
    unlabelled = [*dataset] == ["foreground"] and not dataset.classes
    raise InputError(
        f"the dataset has no {task} to train on",
        path=dataset.path,
        expected=f"one of {', '.join(dataset)}",
        remedy="images without labels have their foreground alone: train foreground, or build the"
        " dataset again with labels"
        if unlabelled
        else "build a dataset whose recipe lists the task",
    )


def _require_classes(dataset: Dataset, task: str) -> None:
    """Raise InputError where a task tells classes apart, and the dataset names none."""
    if task == "foreground" or dataset.labels(task):
        return
    given = task == "mosaics" and dataset.kind.classes_given
    raise InputError(
        f"the dataset names no class of its {'masks' if given else 'images'}, so there are none to"
        f" train {task} on",
        path=dataset.path,
        expected=f"1 to 254 names in source.{'mask_classes' if given else 'classes'}",
        found="none",
        remedy="build the dataset again from a source with classes",
    )


def rate_factor(step: int, config: Config) -> float:
    """Scale of the learning rates at a step: a linear warm-up, then half a cosine down to 0."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    rest = config.steps - config.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / rest))


class Trainer:
    """Trains the network of a task, and writes its log, checkpoints and facts to the folder `out`.

    `steps_done` counts the steps taken so far, `state` is what they change, and `info` holds the
    facts of the run as of its last checkpoint or evaluation. `watch`, if set, is told how far an
    evaluation is.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        task: Task,
        world: World,
        out: Path,
        precision: str,
        *,
        replay: bool,
    ) -> None:
        self.config, self.task, self.world = config, task, world
        self.out, self.precision = out, precision
        self.train_split = dataset.split(task.name, "train")
        self.val_split = dataset.split(task.name, "val")
        self.order = Order(len(self.train_split), config.seed, config.batch)

        self.state = State(task, config, describe(dataset), world.device)
        self.forward = compute.compile_network(self.state.model, config.compile)
        self.generator = torch.Generator(world.device)
        rates = [
            self.state.optimizer.rates(step, rate_factor(step, config))
            for step in range(config.steps)
        ]
        self.rates = torch.stack(rates).to(world.device)
        self.take_step = _captured(self.step, self.generator, world) if replay else self.step

        self.watch: Listener | None = None
        self.steps_done = 0
        self.meter = Meter(out)
        self.info = RunInfo(
            task=task.name,
            config=config.to_json(),
            dataset=describe(dataset),
            environment=environment(world.device, precision, world.size),
            parameters=sum(parameter.numel() for parameter in self.state.parameters),
            step=0,
            epochs=0.0,
            seconds={"loading": 0.0, "training": 0.0, "evaluating": 0.0, "saving": 0.0},
            history=[],
            best=None,
            resumed=[],
            weights="",
        )
        self.stopwatch = Stopwatch(0, config.steps, self.info.seconds)
        # the averaged weights of the best evaluation with its facts, and those that are on disk
        self.best: dict[str, Any] | None = None
        self.published: dict[str, Any] | None = None

    def run(
        self, listeners: Sequence[Listener], stop: Callable[[], bool], checkpoint_seconds: float
    ) -> RunInfo:
        """Train to the last step, or until `stop` returns True."""

        def notify(record: Record) -> None:
            for listener in listeners:
                listener(record)

        config = self.config
        if self.info.finished:
            return self.info
        if self.info.resumed:
            notify({"step": self.steps_done, "resumed": self.info.resumed[-1]})
        # the first step compiles the network
        compiling: contextlib.AbstractContextManager[None] = compute.compiling(config.compile)
        saved = time.perf_counter()
        for batch in self._batches():  # load
            step = self.steps_done
            self._seed(step)
            with compiling:
                losses = self.take_step(batch, self.rates[step])  # augment ... optimise: `step`
            compiling = contextlib.nullcontext()
            self.state.follow(step)  # average
            self.meter.add(step, config.learning_rate * rate_factor(step, config), losses)
            self.stopwatch.count(len(batch["image"]))
            self.steps_done += 1

            stopping = self.world.any(stop())
            last = self.steps_done == config.steps
            evaluating = last or self.steps_done % config.evaluate_every == 0
            if evaluating or self.steps_done % config.log_every == 0:
                notify(self._progress())
            if evaluating:
                notify(self._evaluate())
            if evaluating or stopping or time.perf_counter() - saved >= checkpoint_seconds:
                self._save()
                saved = time.perf_counter()
            if stopping:
                break
        return self.info

    def step(self, batch: Batch, rates: Tensor) -> dict[str, Tensor]:
        """Take one step on a batch of all ranks; return this rank's part of the losses.

        `rates` are those of the optimiser for this step. The step never synchronises with the
        device, and all that changes from step to step is a tensor or the seed of the generator, so
        it can be captured as a CUDA graph. Every rank augments the whole batch and trains on its
        share, so that the samples are those of a single process.
        """
        augmented = self.task.augment(batch, self.generator, self.config)
        count = len(augmented["image"])
        share = self.world.share(count)
        part = {name: values[share] for name, values in augmented.items()}
        weight = len(part["image"]) / count
        losses: dict[str, Tensor] = {}
        if weight:  # a short batch may leave a rank without samples
            with compute.autocast(self.world.device, self.precision):
                outputs = self.forward(part["image"])
            loss, parts = self.task.loss(outputs, part, self.config)
            (loss * weight).backward()
            losses = {
                name: each.detach() * weight for name, each in {"loss": loss, **parts}.items()
            }
        self.world.add_gradients(self.state.parameters)
        self.state.advance(rates)
        return losses

    def restore(self, tree: dict[str, Any], facts: dict[str, Any]) -> None:
        """Continue from a checkpoint of these contents. Raises InputError if it does not fit."""
        self.state.restore(tree)
        before = RunInfo.from_json(facts)
        if not before.finished:
            now = self.info.environment
            resumed = {
                "step": before.step,
                "same_environment": same_bits(before.environment, now),
                "before": before.environment,
            }
            before = replace(before, environment=now, resumed=[*before.resumed, resumed])
        self.steps_done, self.info = before.step, before
        self.stopwatch = Stopwatch(before.step, self.config.steps, before.seconds)
        self.best = tree.get("best")
        if self.world.first:
            self._publish()  # the process may have died after its checkpoint and before this

    def _batches(self) -> Iterator[Batch]:
        """Yield the batches from the present step to the last, of all ranks together."""
        loader = Loader(self.train_split, self.task.columns, self.order, self.world.device)
        self.stopwatch.lap("loading")
        while self.steps_done < self.config.steps:
            epoch, first = divmod(self.steps_done, self.order.steps)
            left = self.config.steps - self.steps_done
            yield from itertools.islice(loader.epoch(epoch, first), left)

    def _seed(self, step: int) -> None:
        """Seed all random numbers of a step."""
        seed = key(self.config.seed, step)
        if self.world.device.type == "cpu":
            # torch.manual_seed would also note a stack of calls for each device that is not there
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        self.generator.manual_seed(seed)

    def _progress(self) -> Record:
        """Return a record of the log: the mean losses since the last one, over all ranks."""
        gathered = self.world.gather(self.meter.means())
        self.stopwatch.lap("training")
        names = dict.fromkeys(name for means in gathered for name in means)
        rate = self.config.learning_rate * rate_factor(self.steps_done - 1, self.config)
        return {
            "step": self.steps_done,
            **{name: sum(means.get(name, 0.0) for means in gathered) for name in names},
            "learning_rate": rate,
            "samples_per_second": round(self.stopwatch.samples_per_second(), 1),
            "seconds_left": round(self.stopwatch.seconds_left(self.steps_done), 1),
        }

    def _evaluate(self) -> Record:
        """Score the averaged weights on val, keep them if they are the best; return a record."""
        self._require_finite()
        count = min(self.config.val_samples or len(self.val_split), len(self.val_split))
        scores, samples = self._score(count)
        entry = {"step": self.steps_done, "samples": count, "scores": scores}
        best = self.info.best
        self.info = replace(self.info, history=[*self.info.history, entry])
        # of equal scores the later one, whose average is over more steps
        improved = best is None or self._main_score(entry) >= self._main_score(best)
        fitted = fit_temperatures(samples) if improved else None
        self.stopwatch.lap("evaluating")
        if improved:
            self.info = replace(self.info, best=entry, temperatures=fitted)
            self._update_info()
            average = self.state.average.state_dict()
            weights = {name: tensor.clone() for name, tensor in average.items()}
            self.best = {"average": weights, "evidence": self.info.to_json()}
        return {"step": self.steps_done, "val": scores, "best": improved}

    def _score(self, count: int) -> tuple[dict[str, float | None], list[Samples]]:
        """Score the first `count` samples of val, shared out among ranks; None if undefined.

        Also gives logits to fit temperatures on, of the same samples for any number of ranks.
        """
        model, images, device = self.state.average, self.val_split["image"], self.world.device
        columns = [name for name in _SCORED if name in self.val_split.columns]
        truth = {name: self.val_split[name][:count] for name in columns}
        sampler = Sampler(self.task.probability, truth[self.task.probability.labels])
        share = self.world.share(count)
        part = {}
        if share.start < share.stop:
            part = infer(
                self.task,
                model,
                images,
                device,
                precision=self.precision,
                samples=share,
                progress=self._tell,
                observe=sampler,
            )
        gathered = self.world.gather((part, sampler.samples))
        parts = [part for part, _ in gathered if part]
        predictions = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores = overall_values(self.task.score(predictions, truth))
        return scores, [each for _, samples in gathered for each in samples]

    def _tell(self, done: int, count: int) -> None:
        """Tell who watches how far the predictions of an evaluation are."""
        if self.watch is not None:
            self.watch({"step": self.steps_done, "evaluating": done / count})

    def _main_score(self, entry: Record) -> float:
        value = entry["scores"][self.task.main_metric]
        return -math.inf if value is None else float(value)

    def _require_finite(self) -> None:
        """Raise TrainingError rather than replace good weights by weights that are not finite."""
        self.meter.check()
        if not self.state.is_finite():
            raise TrainingError(
                f"the weights are not finite after step {self.steps_done - 1}",
                path=self.out,
                remedy=NOT_FINITE,
            )

    def _save(self) -> None:
        """Write a checkpoint of the present state."""
        self._require_finite()
        self.stopwatch.lap("training")
        self._update_info()
        if self.world.first:
            tree = {**self.state.tree(), "best": self.best}
            checkpoint.save(self.out / runs.LAST, tree, self.info.to_json())
            self._publish()
        self.stopwatch.lap("saving")

    def _publish(self) -> None:
        """Write the best weights, if they are new, and the facts; the checkpoint holds both."""
        if self.best is not None and self.published is not self.best:
            weights = {"average": self.best["average"]}
            checkpoint.save(self.out / runs.BEST, weights, self.best["evidence"])
            self.published = self.best
        write_json(self.out / runs.EVIDENCE, self.info.to_json())

    def _update_info(self) -> None:
        """Bring the facts of the run up to the present step."""
        self.info = replace(
            self.info,
            step=self.steps_done,
            epochs=self.steps_done / self.order.steps,
            seconds={kind: round(spent, 3) for kind, spent in self.stopwatch.seconds.items()},
            weights=checkpoint.weights_digest(self.state.average.state_dict()),
        )


def _captured(step: Step, generator: torch.Generator, world: World) -> Step:
    """Return `step` captured as a CUDA graph, if one GPU trains alone, else itself.

    Replaying ranks could wait for each other forever.
    """
    if world.device.type != "cuda" or world.size > 1:
        return step
    return CapturedStep(step, CudaGraph(generator))
