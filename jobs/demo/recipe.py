"""``sonoloop demo``: the whole loop on this machine, on phantoms, with a scripted reader.

Round 0: the embedded model drafts everything; a part goes to Label Studio and is corrected. A challenger
learns from the corrections and passes the gate. Round 1: it drafts the rest, and its drafts stand beside
those of round 0 on cases that no training ever saw.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from sonoloop.platform.phantoms.archive import PhantomConfig

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.demo.archive import read_truth, write_archive
from sonoloop.jobs.demo.ask import served_answer
from sonoloop.jobs.demo.closing import DemoSummary, compare_kinds, draw_pictures, show_closing
from sonoloop.jobs.demo.progress import Steps
from sonoloop.jobs.demo.reader import read_tasks
from sonoloop.jobs.evaluate import run_evaluate
from sonoloop.jobs.finetune import run_finetune
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.output import JsonOption
from sonoloop.jobs.promote import run_promote
from sonoloop.jobs.pull import run_pull
from sonoloop.jobs.push import run_push
from sonoloop.jobs.runs import ray_session
from sonoloop.model.metrics import Described
from sonoloop.platform.errors import GateRefusedError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.stack import StackConfig, StackInfo, environment, start
from sonoloop.platform.tables import current_reviews, read_cases, read_drafts
from sonoloop.platform.workspace import S3Config, Store, store_of

NUM_STEPS = 14


class DemoConfig(BaseModel):
    """How large the demo is."""

    num_known: int = 60
    num_new: int = 220
    num_reviewed: int = 160
    num_reviewed_again: int = 40
    seed: int = 7
    epochs: int = 10


def demo(
    folder: Annotated[Path, typer.Option(help="State of the local stack.")] = Path(".sonoloop"),
    output: Annotated[Path, typer.Option(help="Where tables, metrics and pictures go.")] = Path(
        "demo-output"
    ),
    interactive: Annotated[bool, typer.Option(help="Stop at Label Studio and wait for a person.")] = False,
    json: JsonOption = False,
) -> None:
    """Run the whole loop on this machine with phantoms."""
    summary = run_demo(folder, output, DemoConfig(), interactive=interactive)
    if json:
        typer.echo(summary.model_dump_json())


def run_demo(folder: Path, output: Path, size: DemoConfig, *, interactive: bool = False) -> DemoSummary:
    """The recipe, from an empty machine to the closing table."""
    output.mkdir(parents=True, exist_ok=True)
    steps = Steps(NUM_STEPS)
    with steps.step("start the local stack: S3, Label Studio, Ray"):
        info = start(StackConfig(folder=folder), steps.say)
        os.environ.update(environment(folder))
    config, truth_store = _configure(info, output, size)
    with steps.step("write the archive to S3: phantom studies, real files, broken files"):
        num_objects = write_archive(store_of(config.archive, config.s3), truth_store, _phantoms(size), steps)
        steps.say(f"{num_objects} objects in {config.archive}")
    with ray_session(config.ray):
        return _loop(config, size, truth_store, info, output, steps, interactive=interactive)


def _loop(
    config: Config,
    size: DemoConfig,
    truth_store: Store,
    info: StackInfo,
    output: Path,
    steps: Steps,
    *,
    interactive: bool,
) -> DemoSummary:
    workspace = store_of(config.workspace, config.s3)
    with steps.step("init and index: cases, de-identified key frames, rejections"):
        first = run_init(config).champion
        indexed = run_index(config)
        steps.say(f"{indexed.cases} cases, {indexed.images} images; rejected: {indexed.rejected_by_reason}")
    cases = {case.case_id: case for case in read_cases(workspace)}
    truth = read_truth(truth_store, cases, pseudonym_key())
    with steps.step("annotate, round 0: the embedded model drafts every case"):
        drafted = run_annotate(config)
        steps.say(f"{drafted.drafted} drafts, {drafted.rejected} rejected, {drafted.cases_per_s:.1f} cases/s")
    with steps.step(f"push {size.num_reviewed} cases to Label Studio"):
        steps.say(str(run_push(config, budget=size.num_reviewed)))
    with steps.step("people correct" if interactive else "the scripted reader (a simulation) corrects"):
        if interactive:
            _wait_for_person(info, steps)
        else:
            _read(config, workspace, truth, steps)
    with steps.step("pull the reviews"):
        steps.say(str(run_pull(config)))
    reviewed = set(current_reviews(workspace))
    first_edits = _edits(workspace, reviewed)
    with steps.step("finetune a challenger on the reviews: Ray Train, DeepSpeed, 2 workers"):
        trained = run_finetune(config)
        steps.say(
            f"{trained.num_train} cases to learn from, {trained.num_test} held out, loss {trained.loss:.3f}"
        )
    with steps.step("evaluate champion and challenger on the held-out cases"):
        result = run_evaluate(config)
        steps.say(
            f"entity macro-F1 {result.champion.scores.entity_macro_f1:.3f} -> "
            f"{result.challenger.scores.entity_macro_f1:.3f}"
        )
    with steps.step("promote, if it won"):
        promoted = _promote(config, steps)
    with steps.step("annotate, round 1: the champion drafts the cases nobody has reviewed"):
        unreviewed = frozenset(cases) - reviewed
        again = run_annotate(config, model=trained.challenger, case_ids=unreviewed)
        steps.say(f"{again.drafted} drafts, {again.cases_per_s:.1f} cases/s")
    with steps.step("push and correct a part of round 1"):
        run_push(config, budget=size.num_reviewed_again)
        if not interactive:
            _read(config, workspace, truth, steps)
        run_pull(config)
    with steps.step("serve the champion and ask it once, with the openai client"):
        steps.say(served_answer(output / "sonoloop.toml", workspace, cases[sorted(unreviewed)[0]], steps))
    with steps.step("compare both rounds on cases never trained on"):
        fresh = {case_id: truth[case_id] for case_id in sorted(unreviewed & truth.keys())}
        versions = (first, trained.challenger)
        rounds = compare_kinds(workspace, versions, fresh, cases)
        draw_pictures(output, workspace, versions, rounds, fresh, cases)
    summary = DemoSummary(
        cases=len(cases),
        reviewed=len(reviewed),
        promoted=promoted,
        rounds=rounds,
        edits_per_case={
            "round 0": first_edits,
            "round 1": _edits(workspace, set(current_reviews(workspace)) - reviewed),
        },
        seconds=steps.seconds,
    )
    (output / "summary.json").write_text(summary.model_dump_json(indent=2))
    show_closing(summary, info, output)
    return summary


def _configure(info: StackInfo, output: Path, size: DemoConfig) -> tuple[Config, Store]:
    """Write ``sonoloop.toml`` for a workspace of this demo's own; a second demo does not meet the first."""
    name = f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    bucket = info.image_bucket
    text = f"""# Written by sonoloop demo; `. {info.env_file}` sets the keys.
workspace = "s3://{bucket}/{name}/workspace"
archive = "s3://{bucket}/{name}/archive"

[s3]
endpoint_url = "{info.s3_endpoint}"

[labelstudio]
url = "{info.labelstudio_url}"
project = "Ultrasound {name}"

[finetune]
epochs = {size.epochs}
"""
    path = output / "sonoloop.toml"
    path.write_text(text)
    config = load_config(str(path))
    return config, store_of(f"s3://{bucket}/{name}/truth", S3Config(endpoint_url=info.s3_endpoint))


def _read(config: Config, workspace: Store, truth: Mapping[str, Described], steps: Steps) -> None:
    """Let the scripted reader work on all open tasks, from the drafts that each task shows."""
    drafts = {(d.case_id, d.model_version): d for d in read_drafts(workspace) if d.status == "draft"}
    with open_project(config) as (door, project):
        done = read_tasks(door, project.id, drafts, truth, steps)
    steps.say(f"{done} cases corrected")


def _wait_for_person(info: StackInfo, steps: Steps) -> None:
    steps.say(f"open {info.labelstudio_url}, user {info.labelstudio_username}")
    steps.say(f"the password is in {info.labelstudio_account_file}")
    typer.prompt("      correct some tasks, submit them, then press Enter", default="", show_default=False)


def _promote(config: Config, steps: Steps) -> bool:
    try:
        steps.say(run_promote(config).reason)
    except GateRefusedError as err:
        steps.say(str(err))
        return False
    return True


def _edits(workspace: Store, case_ids: set[str]) -> float:
    """Fields that readers changed or added per case, as Label Studio recorded it."""
    reviews = [review for case_id, review in current_reviews(workspace).items() if case_id in case_ids]
    changed = [sum(o in ("prediction-changed", "manual") for o in r.origins.values()) for r in reviews]
    return sum(changed) / len(changed) if changed else 0.0


def _phantoms(size: DemoConfig) -> PhantomConfig:
    raise AssertionError  # filled in once the phantoms' interface stands
