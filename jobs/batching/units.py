"""The model stage of a batch: weights load once per actor; a unit of lines becomes one file of answers.

That file is the unit's mark as well: it is there whole or not at all, and with it the unit is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import ray

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.guard import Guarded
from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.annotating.placement import model_pool
from sonoloop.jobs.batching.answering import Asker
from sonoloop.jobs.batching.lines import Line, Place, Span, read_span
from sonoloop.model.open_engine import open_engine
from sonoloop.platform import registry
from sonoloop.platform.errors import CountError, RejectedError
from sonoloop.platform.workspace import Store


def answers_of(run_id: str, span: Span) -> tuple[str, ...]:
    """Where a unit's answers lie in the workspace."""
    return ("runs", run_id, "answers", span.name)


def answer_units(run: RunContext, source: Place, spans: Sequence[Span], created: int) -> None:
    """Answer these units, on as many actors as there are to be.

    Raises:
        StorageError: the store was away for longer than ``annotate.storage_patience_s``.
    """
    rows = [vars(span) for span in spans]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        UnitAnswerer,
        fn_constructor_args=(run, source, created),
        batch_size=1,
        batch_format="pyarrow",
        **model_pool(run.config),
    )
    if done.count() != len(spans):
        raise CountError(f"expected {len(spans)} units, found another number; run the same command again")


class UnitAnswerer:
    """Answers units.

    Args:
        run: The run.
        source: The batch file.
        created: When the run began, Unix seconds.
    """

    def __init__(self, run: RunContext, source: Place, created: int) -> None:
        self._run, self._source = run, source
        self._guarded = Guarded(run, "draft")
        self._patiently = Patience(run.config.storage_patience_s)
        engine = run.config.engine
        folder = self._patiently(registry.fetch, run.workspace, run.model_version)
        self._threads = ThreadPoolExecutor(engine.max_rows, thread_name_prefix="ask")
        self._asker = Asker(
            open_engine(folder, engine), engine, run.workspace, run.run_id, created, run.model_version
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Spans in, the numbers of their units out, once their answers are durable."""
        for row in batch.to_pylist():
            self._unit(Span(**row))
        return batch.select(["unit"])

    def _unit(self, span: Span) -> None:
        lines: list[Line] = self._patiently(read_span, self._source, span)
        outcomes: list[str | RejectedError] = self._guarded.do(span.unit, lines, self._answers)
        told = [
            self._asker.given_up(line, outcome) if isinstance(outcome, RejectedError) else outcome
            for line, outcome in zip(lines, outcomes, strict=True)
        ]
        data = "".join(f"{answer}\n" for answer in told).encode()
        place = answers_of(self._run.run_id, span)
        self._patiently(self._run.workspace.write_bytes, data, *place)

    def _answers(self, lines: Sequence[Line]) -> list[str | RejectedError]:
        """In threads, so that the engine has many conversations at once."""
        return list(self._threads.map(self._asker.answer, lines))


def units_left(workspace: Store, run_id: str, spans: Sequence[Span]) -> list[Span]:
    """Those without answers."""
    names = {info.uri.rpartition("/")[2] for info in workspace.list_objects(f"runs/{run_id}/answers")}
    return [span for span in spans if span.name not in names]
