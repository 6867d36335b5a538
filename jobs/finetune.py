"""``sonoloop finetune``: a challenger from the reviews, with Ray Train and DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median

from pydantic import BaseModel

from sonoloop.jobs.claims import Claim, is_held
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.evaluating.held_out import lineage_of
from sonoloop.jobs.finetuning.checks import check_schedulable, check_vocabulary
from sonoloop.jobs.finetuning.curve import StepRecord, read_curve
from sonoloop.jobs.finetuning.inputs import (
    TrainingCase,
    check_images,
    freeze_inputs,
    learnt_from,
    read_inputs,
)
from sonoloop.jobs.finetuning.plan import Plan
from sonoloop.jobs.finetuning.publishing import publish_trained, publish_upcycled
from sonoloop.jobs.finetuning.task import FOLDER, DivergedError, TrainingTask
from sonoloop.jobs.finetuning.trainer import fit
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.runs import Run, ray_session, read_runs, stage, start_run
from sonoloop.jobs.snapshot import Snapshot, freeze_snapshot, read_conversations, read_snapshot
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform import logs, registry
from sonoloop.platform.errors import ConflictError
from sonoloop.platform.records import content_id
from sonoloop.platform.registry import Aliases
from sonoloop.platform.settings import settings_hash
from sonoloop.platform.workspace import Store

VERB = "finetune"


class FinetuneSummary(BaseModel):
    """What was trained on what."""

    run_id: str
    resumed: bool
    snapshot: str
    base: str
    challenger: str
    num_train: int
    num_test: int
    num_left_out: int
    steps: int
    loss_start: float
    loss: float
    tokens_per_s: float
    seconds: float


@dataclass(frozen=True)
class _Job:
    """What is to be trained on what."""

    config: Config
    workspace: Store
    base: str
    snapshot: Snapshot

    @property
    def key(self) -> str:
        """Names this very training: an interrupted run of it is gone on with."""
        reading = settings_hash(self.config.annotate.engine)
        return content_id(self.base, self.snapshot.name, self.config.finetune.shape, reading, length=12)


def finetune(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """Train a challenger from the reviews with Ray Train and DeepSpeed."""
    show(run_finetune(load_config(config)), title=VERB, as_json=json)


def run_finetune(config: Config) -> FinetuneSummary:
    """Freeze a snapshot, train the champion on it, publish the result as challenger.

    An interrupted run of the same training is gone on with, from its last checkpoint.

    Raises:
        NothingToDoError: no review to learn from.
        ConfigError: the cluster has no room for the workers.
        CheckpointError: the base contradicts itself.
        StorageError: images are gone from the store, or it is full.
        ServiceError: the loss is no number any more, or workers were lost too often.
        HeldError: another process is at the same training.
        ConflictError: the aliases were changed meanwhile; what was trained is published.

        After each of them the champion is what it was.
    """
    workspace = config.open_workspace()
    aliases = registry.read_aliases(workspace, config.model.name)
    base = registry.resolve(workspace, config.model.name)
    snapshot = freeze_snapshot(workspace, config.snapshot, test_share=config.finetune.test_share)
    job = _Job(config, workspace, base, snapshot)
    with Claim(workspace, *_claim_of(job.key)), ray_session(config.ray):
        check_schedulable(config.finetune, config.annotate.nodes_to_come)
        run, resumed = _begin(job)
        with stage(VERB) as counts, _marked_when_diverged(workspace, run):
            version = _train(job, run)
            counts.update(cases=snapshot.num_train)
        make_challenger(workspace, version, expected=aliases, run_id=run.run_id)
        _end_overtaken(job, run)
        done, curve = _close(job, run)
    return FinetuneSummary(
        run_id=run.run_id,
        resumed=resumed,
        snapshot=snapshot.name,
        base=base,
        challenger=version,
        num_train=snapshot.num_train,
        num_test=snapshot.num_test,
        num_left_out=snapshot.num_left_out,
        steps=len(curve),
        seconds=done.seconds or 0.0,
        **_losses(curve),
    )


def make_challenger(workspace: Store, version: str, *, expected: Aliases, run_id: str) -> None:
    """Let a trained version be the challenger.

    Raises:
        ConflictError: the aliases were changed while it was trained.
    """
    name = version.partition("/")[0]
    try:
        registry.set_aliases(workspace, name, {"challenger": version}, expected=expected, by=run_id)
    except ConflictError as err:
        raise ConflictError(
            f"{version} was trained and is published, but the aliases of {name} were changed meanwhile, and "
            "none names it; the same command makes it the challenger if the champion is the one it began with"
        ) from err


def _begin(job: _Job) -> tuple[Run, bool]:
    """The interrupted run of this training, or a new one; and which it is."""
    runs = [run for run in _unfinished(job.workspace) if run.key == job.key]
    if runs:
        progress.print(f"{VERB}: going on with {runs[-1].run_id}")
        logs.in_run(runs[-1].run_id)
        return runs[-1], True
    run_id = f"{VERB}-{job.key}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return start_run(job.workspace, VERB, run_id=run_id, key=job.key, config=job.config), False


@contextmanager
def _marked_when_diverged(workspace: Store, run: Run) -> Iterator[None]:
    """A run whose loss is lost is not gone on with; all others are."""
    try:
        yield
    except DivergedError as err:
        run.failed(workspace, str(err))
        raise


def _train(job: _Job, run: Run) -> str:
    """Do what is left of a training; returns the version that it made."""
    config, workspace = job.config.finetune, job.workspace
    base = publish_upcycled(workspace, job.base, config) if config.recipe.upcycles else job.base
    cases = _inputs(replace(job, base=base), run)
    plan = Plan([case.num_tokens for case in cases], [case.is_new for case in cases], config)

    def task_of(tally: object) -> TrainingTask:
        reading = job.config.annotate.engine
        return TrainingTask(workspace, run.run_id, base, job.snapshot.name, config, reading, tally)

    checkpoint = fit(task_of, num_steps=plan.num_steps)
    lineage = {"base": job.base, "snapshot": job.snapshot.name, "run": run.run_id}
    return publish_trained(workspace, base, checkpoint, config, lineage=lineage)


def _inputs(job: _Job, run: Run) -> list[TrainingCase]:
    """What the run reads, all of it there; frozen where it was not yet."""
    workspace, reading = job.workspace, job.config.annotate.engine
    folder = registry.fetch(workspace, job.base)
    processor = EchoVLMProcessor.from_folder(folder, max_pixels=reading.max_pixels)
    check_vocabulary(folder, processor)
    try:
        cases = read_inputs(workspace, run.run_id)
    except FileNotFoundError:
        rows = read_snapshot(workspace, job.snapshot.name, "train")
        imported = read_conversations(workspace, job.snapshot.name, "train")
        learnt = learnt_from(workspace, lineage_of(workspace, job.base).get("snapshot"))
        return freeze_inputs(
            workspace, run.run_id, rows, imported, processor=processor, reading=reading, learnt=learnt
        )
    check_images(workspace, cases)
    return cases


def _end_overtaken(job: _Job, run: Run) -> None:
    """Give up interrupted trainings of the same model: nobody goes on with an older base or snapshot."""
    for other in _unfinished(job.workspace):
        is_alike = other.config["model"]["name"] == job.config.model.name and other.run_id != run.run_id
        if is_alike and not is_held(job.workspace, *_claim_of(other.key)):
            other.failed(job.workspace, f"interrupted, and overtaken by {run.run_id}")
            job.workspace.remove_folder("runs", other.run_id, FOLDER)
    logs.in_run(run.run_id)  # the end of another one took it from the log lines


def _unfinished(workspace: Store) -> list[Run]:
    """Trainings that are under way or were interrupted, oldest first."""
    return [run for run in read_runs(workspace) if (run.verb, run.state) == (VERB, "running")]


def _claim_of(key: str) -> tuple[str, ...]:
    return ("runs", f"training-{key}", "claim.json")


def _close(job: _Job, run: Run) -> tuple[Run, list[StepRecord]]:
    """Mark the run finished, and let its checkpoints go: what they led to is published."""
    curve = read_curve(job.workspace, run.run_id)
    counts = {"train": job.snapshot.num_train, "test": job.snapshot.num_test, "steps": len(curve)}
    counts["conversations"] = job.snapshot.num_train_conversations
    done = run.finished(job.workspace, counts, figures=_losses(curve))
    job.workspace.remove_folder("runs", run.run_id, FOLDER)
    return done, curve


def _losses(curve: list[StepRecord]) -> dict[str, float]:
    return {
        "loss_start": curve[0].loss,
        "loss": curve[-1].loss,
        # the median: the first step after a start waits for the first images
        "tokens_per_s": median(record.num_tokens / record.seconds for record in curve),
    }
