"""``sonoloop evaluate``: champion and challenger on the held-out reviews of a snapshot, side by side."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.evaluating.held_out import held_out
from sonoloop.jobs.evaluating.loop import evaluate_version
from sonoloop.jobs.evaluating.stored import Evaluation, snapshot_of
from sonoloop.jobs.evaluating.suite import Suite, run_benchmark
from sonoloop.jobs.evaluating.tables import print_tables, tables_of
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import ray_session
from sonoloop.platform import registry
from sonoloop.platform.errors import NothingToDoError


class EvaluateSummary(BaseModel):
    """The same figures for both models over the same cases."""

    snapshot: str
    num_cases: int
    champion: Evaluation
    challenger: Evaluation


def evaluate(
    config: ConfigOption = "sonoloop.toml",
    suite: Annotated[Suite, typer.Option(help="Held-out reviews, or a benchmark.")] = Suite.LOOP,
    snapshot: Annotated[
        str | None, typer.Option(help="Of the loop: snapshot name; the challenger's own when absent.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="Of a benchmark: its file or folder, or an s3:// URI.")
    ] = None,
    model: Annotated[str, typer.Option(help="Of a benchmark: alias or version of the model.")] = "champion",
    json: JsonOption = False,
) -> None:
    """Measure champion and challenger on cases no training ever saw, or a model on a benchmark."""
    settings = load_config(config)
    if suite is Suite.LOOP:
        _show(run_evaluate(settings, snapshot=snapshot), as_json=json)
    else:
        found = run_benchmark(suite, settings, path, model=model)
        show(found, title=f"evaluate: {suite}", as_json=json)


def _show(found: EvaluateSummary, *, as_json: bool) -> None:
    old, new = found.champion, found.challenger
    if as_json or old.breakdown is None or new.breakdown is None:
        show(found, title="evaluate", as_json=as_json)
        return
    title = (
        f"evaluate, snapshot {found.snapshot}: champion {old.model_version}, challenger {new.model_version}"
    )
    print_tables(title, tables_of(old.breakdown, new.breakdown))


def run_evaluate(config: Config, *, snapshot: str | None = None) -> EvaluateSummary:
    """Draft the held-out cases with both models where that is missing, and score them against the reviews.

    The calibrators of both are fitted anew on the same reviews.

    Raises:
        ConfigError: there is no challenger.
        NothingToDoError: the snapshot holds no case out.
    """
    workspace, name = config.open_workspace(), config.model.name
    challenger = registry.resolve(workspace, name, "challenger")
    snapshot = snapshot or snapshot_of(workspace, challenger)
    champion = registry.resolve(workspace, name)
    held = held_out(workspace, snapshot, champion, challenger)
    if not held.rows:
        raise NothingToDoError(
            f"snapshot {snapshot} holds no case out that is new to both; more patients must be reviewed"
        )
    with ray_session(config.ray):
        old, new = (
            evaluate_version(config, workspace, version, snapshot=snapshot, rows=held.rows)
            for version in (champion, challenger)
        )
    for version in (champion, challenger):
        registry.write_card(workspace, version)
    return EvaluateSummary(snapshot=snapshot, num_cases=len(held.rows), champion=old, challenger=new)
