"""``sonoloop annotate --batch``: the requests of an OpenAI batch file, answered by a model of ours."""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic import BaseModel

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.guard import guarded
from sonoloop.jobs.annotating.patience import through_outages
from sonoloop.jobs.annotating.placement import check_schedulable
from sonoloop.jobs.batching.lines import Place, Survey, survey
from sonoloop.jobs.batching.units import answer_units, answers_of, units_left
from sonoloop.jobs.claims import Claim
from sonoloop.jobs.config import Config
from sonoloop.jobs.output import progress
from sonoloop.jobs.runs import Run, ray_session, read_run, stage, start_run
from sonoloop.platform import registry
from sonoloop.platform.errors import ConfigError, CountError
from sonoloop.platform.records import content_id
from sonoloop.platform.settings import settings_hash
from sonoloop.platform.workspace import Store

OK = 200


class BatchSummary(BaseModel):
    """Counts of one batch: ``lines = answered + failed``."""

    run_id: str
    model_version: str
    output: str
    resumed: bool
    lines: int
    answered: int
    failed: int
    seconds: float


def run_batch(config: Config, batch: str, output: str, *, model: str = "champion") -> BatchSummary:
    """Answer every request of a batch file; killed and called again, it goes on where it was.

    The run is named by the file's content, the model and the engine's settings: the same batch again gives
    the same output, byte for byte, and asks the model nothing.

    Args:
        config: The configuration; ``[annotate]`` says where and how.
        batch: JSON lines, each a request of OpenAI's batch API to ``/v1/chat/completions``.
        output: Gets one JSON line for each of them, in their order.
        model: Alias or version.

    Raises:
        ConfigError: no such model or file, nothing in it, a ``custom_id`` twice, or no room in the cluster.
        ConflictError: somebody else is at the same batch.
        CountError: lines out differ from lines in.
    """
    source, target = Place.of(batch, config.s3), Place.of(output, config.s3)
    if source == target:
        raise ConfigError("--output names the batch file itself; name another place")
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name, model)
    found = survey(source, config.annotate.cases_per_unit)
    key = content_id(found.digest, version, settings_hash(config.annotate.engine), length=16)
    run_id = f"batch-{key}"
    with Claim(workspace, "runs", run_id, "claim.json"):
        run = read_run(workspace, run_id)
        resumed = run is not None
        run = run or start_run(workspace, "batch", run_id=run_id, key=key, config=config)
        _answer(config, RunContext(workspace, run_id, version, "", key, config.annotate), source, found, run)
        counts = _write(workspace, run_id, found, target)
        done = run.finished(workspace, counts)
    return BatchSummary(
        run_id=run_id,
        model_version=version,
        output=target.store.uri_of(target.name),
        resumed=resumed,
        seconds=done.seconds or 0,
        **counts,
    )


def _answer(config: Config, context: RunContext, source: Place, found: Survey, run: Run) -> None:
    left = units_left(context.workspace, context.run_id, found.spans)
    if not left:
        progress.print(f"annotate: all {found.num_lines} lines of the batch are answered already")
        return
    with ray_session(config.ray), guarded(config.annotate) as guard, stage("batch"):
        check_schedulable(config.annotate)
        through_outages(
            context.workspace,
            config.annotate.storage_patience_s,
            lambda: answer_units(
                replace(context, guard=guard),
                source,
                units_left(context.workspace, context.run_id, found.spans),
                int(run.started_at.timestamp()),
            ),
        )


def _write(workspace: Store, run_id: str, found: Survey, target: Place) -> dict[str, int]:
    """Put the units' answers together, once they are proven to be all."""
    data = b"".join(workspace.read_bytes(*answers_of(run_id, span)) for span in found.spans)
    told = data.splitlines()
    if len(told) != found.num_lines:
        raise CountError(
            f"{found.num_lines} lines went in, {len(told)} came out; {target.name} is not written"
        )
    target.store.write_bytes(data, target.name)
    num_answered = sum((json.loads(line)["response"] or {}).get("status_code") == OK for line in told)
    return {"lines": len(told), "answered": num_answered, "failed": len(told) - num_answered}
