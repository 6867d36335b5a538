"""The demo's loop itself, once the stack is up and the archive written. Imports Ray; see `recipe`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import typer

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.annotating.selection import Selection
from sonoloop.jobs.config import Config
from sonoloop.jobs.demo.archive import read_truth
from sonoloop.jobs.demo.ask import served_answer
from sonoloop.jobs.demo.closing import REPORT_FILE, DemoSummary, compare_kinds, draw_pictures, show_closing
from sonoloop.jobs.demo.progress import Steps
from sonoloop.jobs.demo.reader import read_tasks
from sonoloop.jobs.demo.size import DemoConfig
from sonoloop.jobs.evaluate import run_evaluate
from sonoloop.jobs.finetune import run_finetune
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.promote import run_promote
from sonoloop.jobs.pull import run_pull
from sonoloop.jobs.push import run_push
from sonoloop.jobs.report import run_report
from sonoloop.jobs.runs import ray_session
from sonoloop.model.calibration import CalibrationFigures
from sonoloop.model.metrics import Described
from sonoloop.platform import registry
from sonoloop.platform.errors import GateRefusedError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.stack import StackInfo
from sonoloop.platform.tables import current_reviews, read_cases, read_drafts
from sonoloop.platform.workspace import Store, store_of


@dataclass(frozen=True)
class Demo:
    """What every step of the demo needs."""

    config: Config
    size: DemoConfig
    truth_store: Store
    info: StackInfo
    output: Path
    steps: Steps
    interactive: bool

    @property
    def workspace(self) -> Store:
        """The demo's own workspace."""
        return store_of(self.config.workspace, self.config.s3)


def go_round(demo: Demo) -> DemoSummary:
    """Both rounds, from `init` to the closing table, on the Ray that the environment names."""
    with ray_session(demo.config.ray):
        first = _index(demo)
        cases = {case.case_id: case for case in read_cases(demo.workspace)}
        truth = read_truth(demo.truth_store, cases, pseudonym_key())
        reviewed = _round_0(demo, truth)
        edits_before = _edits(demo, reviewed)
        champion = _learn(demo)
        unreviewed = frozenset(cases) - reviewed
        _round_1(demo, champion, truth)
        edits_after = _edits(demo, set(current_reviews(demo.workspace)) - reviewed)
        _ask(demo, cases[min(unreviewed & truth.keys())])
        fresh = {case_id: truth[case_id] for case_id in sorted(unreviewed & truth.keys())}
        with demo.steps.step("compare both rounds on cases never trained on"):
            rounds = compare_kinds(demo.workspace, (first, champion), fresh, cases)
            draw_pictures(demo.output, demo.workspace, (first, champion), rounds, fresh, cases)
    _report(demo)
    summary = DemoSummary(
        cases=len(cases),
        reviewed=len(reviewed),
        promoted=champion != first,
        rounds=rounds,
        edits_per_case={"round 0": edits_before, "round 1": edits_after},
        seconds=demo.steps.seconds,
    )
    (demo.output / "summary.json").write_text(summary.model_dump_json(indent=2))
    show_closing(summary, demo.info, demo.output)
    return summary


def _index(demo: Demo) -> str:
    with demo.steps.step("init and index: cases, de-identified key frames, rejections"):
        champion = run_init(demo.config).champion
        found = run_index(demo.config)
        demo.steps.say(f"{found.cases} cases, {found.images} images; rejected: {found.rejected_by_reason}")
    return champion


def _round_0(demo: Demo, truth: Mapping[str, Described]) -> set[str]:
    steps = demo.steps
    with steps.step("annotate, round 0: the embedded model drafts every case"):
        drafted = run_annotate(demo.config)
        steps.say(f"{drafted.drafted} drafts, {drafted.rejected} rejected, {drafted.cases_per_s:.1f} cases/s")
    with steps.step(f"push {demo.size.num_reviewed} cases to Label Studio"):
        pushed = run_push(demo.config, budget=demo.size.num_reviewed)
        steps.say(f"{pushed.new_tasks} tasks at {pushed.project_url}")
    with steps.step(
        "a person corrects" if demo.interactive else "the scripted reader (a simulation) corrects"
    ):
        _read(demo, truth)
    with steps.step("pull the reviews"):
        pulled = run_pull(demo.config)
        steps.say(f"{pulled.new_reviews} reviews, {pulled.skipped_by_readers} skipped by readers")
    return set(current_reviews(demo.workspace))


def _learn(demo: Demo) -> str:
    """Train, evaluate, promote; returns the champion after that."""
    steps = demo.steps
    with steps.step("finetune a challenger on the reviews: Ray Train, DeepSpeed, 2 workers"):
        trained = run_finetune(demo.config)
        steps.say(
            f"{trained.num_train} cases to learn from, {trained.num_test} held out, loss {trained.loss:.3f}"
        )
    with steps.step("evaluate champion and challenger on the held-out cases"):
        result = run_evaluate(demo.config)
        before, after = result.champion.scores, result.challenger.scores
        steps.say(f"entity macro-F1 {before.entity_macro_f1:.3f} -> {after.entity_macro_f1:.3f}")
        steps.say(f"calibration error of the challenger: {_calibration(result.challenger.calibration)}")
    with steps.step("promote, if it won"):
        try:
            steps.say(run_promote(demo.config).reason)
        except GateRefusedError as err:
            steps.say(str(err))
    return registry.resolve(demo.workspace, demo.config.model.name)


def _calibration(figures: CalibrationFigures | None) -> str:
    if figures is None or figures.ece_before is None or figures.ece_after is None:
        return figures.reason or "not measured" if figures else "not measured"
    return f"{figures.ece_before:.3f} as decoded, {figures.ece_after:.3f} calibrated"


def _round_1(demo: Demo, champion: str, truth: Mapping[str, Described]) -> None:
    with demo.steps.step("annotate, round 1: the champion drafts the cases nobody has reviewed"):
        drafted = run_annotate(demo.config, Selection(unreviewed=True), model=champion)
        demo.steps.say(f"{drafted.drafted} drafts, {drafted.cases_per_s:.1f} cases/s")
    with demo.steps.step(f"push and correct {demo.size.num_reviewed_again} cases of round 1"):
        run_push(demo.config, budget=demo.size.num_reviewed_again)
        _read(demo, truth)
        run_pull(demo.config)


def _ask(demo: Demo, case: CaseRecord) -> None:
    with demo.steps.step("serve the champion and ask it once, with the openai client"):
        demo.steps.say(served_answer(demo.output / "sonoloop.toml", demo.workspace, case, demo.steps))


def _report(demo: Demo) -> None:
    with demo.steps.step("report: what the drafts were worth to the reader"):
        _, page = run_report(demo.config, out=demo.output / REPORT_FILE)
        demo.steps.say(f"written: {page}")


def _read(demo: Demo, truth: Mapping[str, Described]) -> None:
    """Let a person, or the scripted reader, work on the open tasks."""
    if demo.interactive:
        demo.steps.say(f"open {demo.info.labelstudio_url}, user {demo.info.labelstudio_username}")
        demo.steps.say(f"the password is in {demo.info.labelstudio_account_file}")
        typer.prompt("      correct and submit some tasks, then press Enter", default="", show_default=False)
        return
    drafts = {(d.case_id, d.model_version): d for d in read_drafts(demo.workspace) if d.status == "draft"}
    with open_project(demo.config) as (door, project):
        done = read_tasks(door, project.id, drafts, truth, demo.steps)
    demo.steps.say(f"{done} cases corrected")


def _edits(demo: Demo, case_ids: set[str]) -> float:
    """Fields that readers changed or added per case, as Label Studio recorded it."""
    reviews = [review for case_id, review in current_reviews(demo.workspace).items() if case_id in case_ids]
    changed = [sum(o in ("prediction-changed", "manual") for o in r.origins.values()) for r in reviews]
    return sum(changed) / len(changed) if changed else 0.0
