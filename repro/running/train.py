"""A training: rounds, evaluations, checkpoints and what its record holds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from repro import codecs, files
from repro.distributed import Crossed, Host, Server, large_batch
from repro.errors import Diverged, ReproError
from repro.experiments import schedules
from repro.experiments.stepup import StepUp
from repro.machine import device
from repro.randomness import derive
from repro.registry import specs, store
from repro.registry.specs import Spec
from repro.results.metrics import step_up_share
from repro.results.records import Record
from repro.running import tracking
from repro.running.clock import Clock
from repro.running.job import Job
from repro.running.prepare import Setting, prepare
from repro.training import Round, fast, plain, remedies
from repro.training.buffers import Buffers
from repro.training.clients import Clients, SerialClients
from repro.training.evaluate import evaluate_shared, expect_finite
from repro.training.exchange import Exchange
from repro.training.gate import Gate
from repro.training.local import LocalTraining
from repro.training.momenta import Momenta
from repro.training.stacked import StackedClients
from repro.training.steps import Optimisation, gradient_norm, sgd


@dataclass
class State:
    """The part of a run's state that is not in the model: what a checkpoint holds besides weights and momentum.

    ``epoch_...`` count since the last row, ``observed_...`` since the last evaluation that the schedule observed.
    ``crossed`` is what came from other processes, where there are any.
    """

    rounds: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    synchronisations: list[float] = field(default_factory=list)
    further: list[float] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    epoch_loss: float = 0.0
    epoch_correct: int = 0
    epoch_images: int = 0
    observed_loss: float = 0.0
    observed_images: int = 0
    schedule: dict[str, Any] = field(default_factory=dict)
    states: list[codecs.State] = field(default_factory=list)
    own_buffers: list[dict[str, torch.Tensor]] = field(default_factory=list)
    momenta: list[dict[str, torch.Tensor]] = field(default_factory=list)
    crossed: dict[str, Any] = field(default_factory=dict)
    remedy: dict[str, Any] = field(default_factory=dict)

    def count(self, done: Round) -> None:
        """Add a finished round."""
        self.rounds = done.number
        self.losses.append(done.loss)
        self.synchronisations.append(done.synchronisations)
        self.further.append(done.further)
        self.bytes_up += done.bytes_up
        self.bytes_down += done.bytes_down
        self.epoch_loss += done.loss * done.images
        self.epoch_correct += done.correct
        self.epoch_images += done.images
        self.observed_loss += done.loss * done.images
        self.observed_images += done.images


def run(job: Job) -> Record:
    """Train one run, from its checkpoint where there is one, and return its record.

    Raises:
        ReproError: bad data or settings.
    """
    tracking.expect_meaningful(job.spec)
    return finished(Training(job, prepare(job.spec, job.seed, job.root)))


def finished(training: Training) -> Record:
    """All rounds that are left of a training, and its record."""
    job = training.job
    status, reason = "completed", None
    try:
        with training.rounds() as rounds:
            for done in rounds:
                training.after(done)
    except Diverged as error:
        status, reason = "diverged", f"after {training.state.rounds} of {training.clock.total} rounds: {error}"
    if job.group is not None and status == "completed":
        _expect_all_received(job.group.crossed, training.state)
    return job.record(
        data=training.setting.data, status=status, reason=reason, rows=training.state.rows, series=training.series()
    )


def _expect_all_received(crossed: Crossed, state: State) -> None:
    """Raise a ReproError unless as many bytes came from other processes as the record counts."""
    if (crossed.up, crossed.down) != (state.bytes_up, state.bytes_down):
        raise ReproError(
            f"{crossed.up} bytes came from the clients and {crossed.down} to them, {state.bytes_up} and "
            f"{state.bytes_down} were counted; equal numbers were expected; this is a bug in the run"
        )


class Training:
    """One training, built once from its spec: what it trains with, how far it is, and what follows a round."""

    def __init__(self, job: Job, setting: Setting) -> None:
        spec, seed = job.spec, job.seed
        self.job, self.spec, self.track = job, spec, spec.track or []
        self.setting, model, batches = setting, setting.model, setting.batches
        codec = codecs.of_run(spec.codec, spec.method, spec.momentum, workers=spec.workers, options=spec.codec_options)
        self.clock = Clock.of(spec, batches)
        course = remedies.Course(seed, self.clock.total)
        self.remedy = remedies.build(spec.remedy, course, spec.remedy_options) if spec.remedy else None
        self.schedule = schedules.build(spec.schedule)
        self.optimisation = Optimisation(
            lambda epoch: self.schedule.lr(epoch),  # as the schedule stands then
            spec.momentum,
            spec.weight_decay,
            spec.precision,
            sgd if self.remedy is None else self.remedy.optimiser,
        )
        if spec.method == "large_batch":
            self.optimiser = self.optimisation.of_server(model, codec)
        else:
            self.optimiser = self.optimisation.optimiser(model)
        self.state = job.checkpoint.restore(self._restored) or State(
            own_buffers=Buffers.start(spec.buffers, model, batches.clients).own,
            momenta=Momenta.start(spec.local_momentum, model, batches.clients).own,
        )
        if self.remedy is not None and self.state.remedy:
            self.remedy.restore(self.state.remedy)
        if self.state.schedule:
            self.schedule = self.schedule.with_state(self.state.schedule)
        self.buffers = Buffers(spec.buffers, self.state.own_buffers)
        self.exchange = Exchange(
            codec,
            codecs.build("int8" if spec.quantised_weights else "dense"),
            self.buffers,
            codecs.warm_up(spec.sparsity_warmup, spec.epochs),
            derive(seed, "codec"),
            self.state.states,
        )
        step_up = _step_up(spec, seed, job.root)
        self.gate = Gate(step_up, seed, self.state.gradient_norms, self.state.factors) if step_up else None
        self._clients: Clients | None = None
        if job.group is not None:
            job.group.crossed = Crossed(**self.state.crossed)

    def _restored(self, state: Mapping[str, Any]) -> State:
        """The progress in a checkpoint's ``state``; sets model and optimiser, or leaves both if it does not fit."""
        progress, model, optimiser = State(**state["progress"]), self.setting.model, self.optimiser
        kept = copy.deepcopy((model.state_dict(), optimiser.state_dict()))
        try:
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError):
            model.load_state_dict(kept[0])
            optimiser.load_state_dict(kept[1])
            raise
        return progress

    @contextmanager
    def rounds(self) -> Iterator[Iterator[Round]]:
        """The rounds of the spec's method that are left."""
        spec, model, batches = self.spec, self.setting.model, self.setting.batches
        todo = range(self.state.rounds, self.clock.total)
        if spec.method == "central":
            yield fast.centralised(
                model, self.optimiser, batches, self.optimisation, todo, before_step=self.gate, remedy=self.remedy
            )
            return
        scored = self.clock.total - 1 if "per_class" in self.track else None
        if self.job.group is not None:
            clients = Server(self.job.group, self._serial(), model, lambda: self.schedule.state())
            with clients.begin(self.job.checkpoint.fingerprint) as self._clients:
                if spec.method == "large_batch":
                    yield large_batch(clients, self.optimiser, todo)
                else:
                    yield fast.federated_averaging(model, clients, todo, score_clients_in=scored)
            return
        if spec.method == "large_batch":
            engine = plain if self.job.separate else fast
            yield engine.large_batch(model, self.optimiser, batches, self.exchange, self.optimisation, todo)
            return
        if spec.stacked is not None:
            if self.job.processes > 1:
                raise ReproError(
                    f"{spec.run}: {self.job.processes} processes for clients that train together in one; leave "
                    "--processes out"
                )
            self._clients = StackedClients(self._serial(), spec.stacked)
            yield fast.federated_averaging(model, self._clients, todo, score_clients_in=scored)
            return
        # A schedule with a state changes in this process only, so its clients must run here too.
        alone = device().type != "cpu" or bool(schedules.build(spec.schedule).state())
        with fast.client_pool(
            model,
            batches,
            self.exchange,
            self.optimisation,
            self._local(),
            processes=1 if alone else self.job.processes,
            evaluation=self.setting.evaluation_parts(),
            final=self.setting.evaluation_parts(final=True),
        ) as self._clients:
            yield fast.federated_averaging(model, self._clients, todo, score_clients_in=scored)

    def serve(self) -> None:
        """Hold clients for the server of the job's group until that lets this process end."""
        assert self.job.group is not None

        def follow(state: dict[str, Any]) -> None:
            self.schedule = self.schedule.with_state(state) if state else self.schedule

        Host(self.job.group, self._serial(), follow).serve(self.job.checkpoint.fingerprint)

    def _local(self) -> LocalTraining:
        spec = self.spec
        momenta = Momenta(spec.local_momentum, self.state.momenta)
        return LocalTraining(spec.local_epochs, self.clock.local_steps, momenta, spec.weights)

    def _serial(self) -> SerialClients:
        """All clients in this process."""
        setting = self.setting
        return SerialClients(
            setting.model,
            setting.batches,
            self.exchange,
            self.optimisation,
            self._local(),
            setting.evaluation_parts(),
            setting.evaluation_parts(final=True),
        )

    def after(self, done: Round) -> None:
        """What follows a round: it is counted; when due, the model is evaluated, the schedule told, the state saved."""
        state, total = self.state, self.clock.total
        if "gradient_norm" in self.track:
            state.gradient_norms.append(gradient_norm(self.setting.model))
        state.count(done)
        if self.spec.diverges_above is not None and done.loss > self.spec.diverges_above:
            raise Diverged(
                f"the training loss is {done.loss:g}; at most {self.spec.diverges_above:g} was expected "
                "(diverges_above); lower the learning rate"
            )
        if self.clock.evaluates(done.number):
            state.rows.append(self._row(done))
            state.epoch_loss, state.epoch_correct, state.epoch_images = 0.0, 0, 0
        if self.clock.regular(done.number):
            observed = state.observed_loss / state.observed_images
            self.schedule = self.schedule.observe(observed, self.clock.epoch(done.number))
            state.observed_loss, state.observed_images = 0.0, 0
        self.job.report(done.number / total)
        if done.number < total and self.job.checkpoint.due():
            state.schedule = self.schedule.state()
            if isinstance(self._clients, Server):
                self._clients.gather()
                state.crossed = asdict(self._clients.group.crossed)
            state.remedy = self.remedy.state() if self.remedy is not None else {}
            model, optimiser = self.setting.model.state_dict(), self.optimiser.state_dict()
            self.job.checkpoint.save({"model": model, "optimiser": optimiser, "progress": vars(state)})

    def _evaluate(self, final: bool) -> Mapping[str, Any]:
        """The evaluation of the model, or one of the last ones."""
        model = self.setting.model
        if self._clients is not None:
            return self._clients.evaluate(model, final)
        return evaluate_shared(model, self.setting.evaluation_parts(final), self.spec.precision, self.buffers)

    def _row(self, done: Round) -> dict[str, Any]:
        found, state = self._evaluate(self.clock.final(done.number)), self.state
        expect_finite("evaluation", found["loss"])
        row = {
            "epoch": self.clock.epoch(done.number),
            "round": done.number,
            "lr": done.lr,
            "train_loss": state.epoch_loss / state.epoch_images,
            "train_top1": state.epoch_correct / state.epoch_images,
            "test_loss": found["loss"],
            "test_top1": found["top1"],
            "test_top5": found["top5"],
            "bytes_up": state.bytes_up,
            "bytes_down": state.bytes_down,
        }
        row |= tracking.at_evaluation(self.spec, self.setting, self.buffers, found)
        if done.number == self.clock.total:
            row |= tracking.at_the_end(self.spec, self.job.seed, self.setting, done, self.buffers)
        return row

    def series(self) -> dict[str, list[float]]:
        """What a record holds of every round, to six digits: a training may have tens of thousands of rounds."""
        series = {"train_loss": self.state.losses}
        if "gradient_norm" in self.track or self.spec.step_up:
            series["gradient_norm"] = self.state.gradient_norms
        if self.spec.step_up:
            series["step_up_factor"] = self.state.factors
        if self.spec.remedy:
            series["synchronisations"] = self.state.synchronisations
        if any(self.state.further):
            series["further_images"] = self.state.further
        return {name: [files.rounded(value) for value in values] for name, values in series.items()}


def _step_up(spec: Spec, seed: int, root: Path) -> StepUp | None:
    """The rule by which gradients are stepped up; its share is that of another run's record where the spec says so."""
    if spec.step_up is None:
        return None
    share, other = 0.0, spec.step_up.get("share_of")
    if other is not None:
        record = store.stored(specs.sibling(other, spec, root), seed, root)
        if record is None:
            raise ReproError(
                f"{spec.run}: it steps up as often as {other}, which has no valid record of seed {seed}; "
                f"run `python -m repro run {other} --profile {spec.profile}` first"
            )
        share = step_up_share(record) or 0.0  # None if it diverged at once
    return StepUp.of(specs.described(spec.step_up, share))
