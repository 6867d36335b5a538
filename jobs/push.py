"""``sonoloop push``: drafts to Label Studio, one task per case, one prediction per model version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.claims import Claim
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.labelstudio import image_storage, open_project
from sonoloop.jobs.output import ConfigOption, JsonOption, progress, show
from sonoloop.jobs.pushing.choosing import choose, scatter
from sonoloop.jobs.pushing.drafted import DraftedCases
from sonoloop.jobs.pushing.gold import enter_gold, read_gold
from sonoloop.jobs.pushing.ledger import Ledger
from sonoloop.jobs.pushing.reconciling import ReconcileSummary, reconcile
from sonoloop.jobs.pushing.sending import Sender
from sonoloop.jobs.pushing.showing import Showing
from sonoloop.jobs.pushing.survey import Survey, look
from sonoloop.jobs.runs import stage
from sonoloop.model.calibration import read_calibrator
from sonoloop.platform import registry
from sonoloop.platform.duplicates import read_groups
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.labelstudio.answers import Project
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import configured_page
from sonoloop.platform.labelstudio.edited import check_page
from sonoloop.platform.labelstudio.predictions import version_name
from sonoloop.platform.labelstudio.upload import TaskWriter
from sonoloop.platform.tasks import project_key
from sonoloop.platform.workspace import Store


class PushSummary(BaseModel):
    """What Label Studio has now that it had not before, and what it was spared."""

    project: str
    project_url: str
    model_version: str
    calibrated: bool
    cases: int
    new_tasks: int
    chosen_by: dict[str, int]
    controls: int
    gold: int
    two_readers: int
    new_predictions: int
    updated: int
    unchanged: int
    worked_on: int
    removed_by_people: int
    near_duplicates: int
    other_organs: int
    unfit: int


def push(
    config: ConfigOption = "sonoloop.toml",
    budget: Annotated[
        int | None, typer.Option(min=1, help="At most this many cases that have no task yet.")
    ] = None,
    near_duplicates: Annotated[
        bool,
        typer.Option("--near-duplicates", help="New tasks also for cases that share a picture with another."),
    ] = False,
    gold: Annotated[
        Path | None, typer.Option(help="File of case ids, one a line, whose truth is known.")
    ] = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Only compare server and ledger, mend and prove them equal.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring drafts to Label Studio: one task per case, one prediction per model version."""
    settings = load_config(config)
    if reconcile:
        show(run_reconcile(settings), title="push --reconcile", as_json=json)
        return
    cases = () if gold is None else read_gold(gold)
    summary = run_push(settings, budget=budget, near_duplicates=near_duplicates, gold=cases)
    show(summary, title="push", as_json=json)


def run_push(
    config: Config,
    *,
    budget: int | None = None,
    near_duplicates: bool = False,
    gold: tuple[str, ...] = (),
) -> PushSummary:
    """Bring the champion's drafts to Label Studio; the same call again changes nothing.

    Cases that have a task which nobody has worked on get the champion's prediction beside the older ones,
    and a changed score or changed data; ``budget`` bounds only the new tasks and is shared by
    ``push.shares``. Of cases that share a picture only one gets a task, unless ``near_duplicates`` asks for
    all; tasks that are there stay. A task that a person deleted is not made again.

    Args:
        config: Of the project and the shares.
        budget: New tasks at most, gold ones among them.
        near_duplicates: Whether all cases of a group may get a task.
        gold: Cases whose truth is known, scattered among the others.

    Raises:
        NothingToDoError: the champion has no draft.
        ConfigError: no API key, the workspace is not on S3, or a gold case cannot be shown.
        HeldError: another push to the project is under way.
        ServiceError: Label Studio does not answer or refuses, or its page lacks a control.
    """
    workspace = config.open_workspace()
    version, prompt_version = registry.resolve(workspace, config.model.name), config.annotate.prompt_version
    showing = _showing(config, workspace, version, gold)
    drafted = DraftedCases(workspace, version, prompt_version)
    if next(drafted.without_texts(), None) is None:
        raise NothingToDoError(f"model {version} has no drafts to show; run `sonoloop annotate` first")
    with (
        open_project(config) as (door, project),
        _claimed(config, workspace, project),
        stage("push") as counts,
    ):
        check_page(project.title, project.label_config, configured_page(config.labelstudio))
        door.ensure_storage(project.id, image_storage(workspace))
        ledger = _true_ledger(config, workspace, door, project, showing)
        survey = look(drafted, ledger, showing, {} if near_duplicates else read_groups(workspace))
        enter_gold(gold, ledger, survey.gold)
        chosen = _chosen(survey, showing, budget, None if near_duplicates else survey.taken_groups)
        num_todo = len(chosen) + len(survey.changed)
        sender = Sender(
            TaskWriter(door, project.id),
            drafted,
            showing,
            ledger,
            config.labelstudio.import_batch,
            lambda done: progress.print(f"push: {done} more of {num_todo} cases"),
        )
        sender.refresh(survey.changed)
        sender.make(chosen)
        if sender.num_shown or ledger.num_showing(version):  # Label Studio refuses a version it has not seen
            name = version_name(version, prompt_version)
            door.use_version(project.id, name, least_sure_first=config.push.least_sure_first)
        counts.update(cases=num_todo, tasks=sum(sender.new.values()))
    num_alike = 0 if near_duplicates else survey.candidates.num_near_duplicates(survey.taken_groups)
    return _summary(config, project, version, survey, sender, num_alike)


def run_reconcile(config: Config) -> ReconcileSummary:
    """Compare the project with the ledger, mend both, and count again.

    Raises:
        ConfigError: no API key.
        HeldError: a push to the project is under way.
        ServiceError: Label Studio does not answer or refuses.
        CountError: they differ still.
    """
    workspace = config.open_workspace()
    showing = _showing(config, workspace, registry.resolve(workspace, config.model.name))
    with open_project(config) as (door, project), _claimed(config, workspace, project):
        ledger = Ledger.read(workspace, _key(config, project))
        return reconcile(door, project, ledger, showing, asked_for=True, on_progress=_read)


def _showing(config: Config, workspace: Store, version: str, gold: tuple[str, ...] = ()) -> Showing:
    calibrator = read_calibrator(workspace, version, config.annotate.prompt_version)
    return Showing(config.push, config.labelstudio, calibrator, workspace.uri, frozenset(gold))


def _key(config: Config, project: Project) -> str:
    return project_key(config.labelstudio.url, project.id)


def _claimed(config: Config, workspace: Store, project: Project) -> Claim:
    return Claim(workspace, "tasks", _key(config, project), "push.json")


def _read(num_tasks: int) -> None:
    progress.print(f"push: {num_tasks} more tasks of the server read")


def _true_ledger(
    config: Config, workspace: Store, door: LabelStudioDoor, project: Project, showing: Showing
) -> Ledger:
    """The ledger, compared with the server first where their numbers of tasks differ."""
    ledger = Ledger.read(workspace, _key(config, project))
    if ledger.num_sent == (project.task_number or 0):
        return ledger
    reconcile(door, project, ledger, showing, asked_for=False, on_progress=_read)
    return Ledger.read(workspace, _key(config, project))


def _chosen(
    survey: Survey, showing: Showing, budget: int | None, taken_groups: set[int] | None
) -> list[tuple[str, str]]:
    """Case ids in the order in which they are sent, each with what chose it; gold ones count first."""
    gold = survey.gold[:budget]
    rest = None if budget is None else budget - len(gold)
    picked = choose(survey.candidates, showing.config.shares, rest, taken_groups)
    why = {survey.candidates.case_id(choice.index): choice.strategy for choice in picked}
    order = scatter(list(why), {case_id: showing.gold_place(case_id) for case_id in gold})
    return [(case_id, why.get(case_id, "gold")) for case_id in order]


def _summary(
    config: Config, project: Project, version: str, survey: Survey, sender: Sender, near_duplicates: int
) -> PushSummary:
    outcomes, num_new = sender.outcomes, sum(sender.new.values())
    return PushSummary(
        project=project.title,
        project_url=f"{config.labelstudio.url}/projects/{project.id}/data",
        model_version=version,
        calibrated=sender.showing.calibrator is not None,
        cases=survey.num_unchanged + len(survey.changed) + num_new,
        new_tasks=num_new,
        chosen_by=dict(sorted(sender.strategies.items())),
        controls=sender.new["control"],
        gold=sender.new["gold"],
        two_readers=sender.num_two_readers,
        new_predictions=outcomes["predicted"],
        updated=outcomes["updated"],
        unchanged=survey.num_unchanged + outcomes["unchanged"],
        worked_on=outcomes["kept"],
        removed_by_people=survey.num_removed + outcomes["gone"],
        near_duplicates=near_duplicates,
        other_organs=survey.num_other_organs,
        unfit=sender.num_unfit,
    )
