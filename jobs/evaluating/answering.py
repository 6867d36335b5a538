"""The answering pipeline on Ray Data: the files of a suite in, one answer or rejection for each item out.

read files (tasks, item by item) -> answer (the model actors of ``[annotate]``) -> rows. Pictures live between
the two stages only, and what waits there is bounded by Ray Data. Answers are kept as they come: called
again after a kill, only what is missing is asked (`KeptAnswers`). An item that kills or hangs its actor is
found out as a case of ``annotate`` is, by its limits, and counts as one that the model failed on (`Guarded`).
"""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import ray
from PIL import Image

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.guard import Guarded, guarded
from sonoloop.jobs.annotating.placement import check_schedulable, model_pool
from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.items import Answered, Item, Source, rejected_item
from sonoloop.jobs.evaluating.kept import KeptAnswer, KeptAnswers
from sonoloop.jobs.runs import ray_session, stage
from sonoloop.model.chat import ChatMessage, ChatPart, ChatResult
from sonoloop.model.frames import decode_frame
from sonoloop.model.open_engine import open_engine
from sonoloop.platform import registry
from sonoloop.platform.errors import CountError, NothingToDoError, Reason, RejectedError, StorageError
from sonoloop.platform.records import content_id
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)
PACKED = pa.schema([("packed", pa.binary())])


def answer_all(
    config: Config, workspace: Store, model_version: str, sources: Sequence[Source]
) -> list[Answered]:
    """Ask a model every item of the sources.

    Args:
        config: Engine and actors are those of ``[annotate]``.
        workspace: Holds the model.
        model_version: What answers.
        sources: Read side by side.

    Returns:
        One for each item, by place.

    Raises:
        NothingToDoError: the sources hold no item that can be asked.
        ConfigError: the cluster cannot hold the actors.
        CountError: an item is missing or came twice.
    """
    with stage("answer") as counts, ray_session(config.ray), guarded(config.annotate) as guard:
        check_schedulable(config.annotate)
        kept = KeptAnswers.of(workspace, model_version, config.annotate)
        run = RunContext(workspace, kept.key, model_version, "", "", config.annotate, guard=guard)
        packed = ray.data.from_items([{"source": pickle.dumps(source)} for source in sources])
        answered = packed.map_batches(
            read_items, batch_size=1, batch_format="pyarrow", num_cpus=1
        ).map_batches(
            Answerer,
            fn_constructor_args=(run, kept),
            batch_size=config.annotate.cases_per_unit,
            batch_format="pyarrow",
            **model_pool(config.annotate),
        )
        found = [pickle.loads(row["packed"]) for row in answered.iter_rows()]
        answers = sorted(found, key=lambda one: _split(one.item.place))
        counts.update(items=len(answers), rejected=sum(one.rejection is not None for one in answers))
    check_counts(answers)
    if not any(one.is_scored for one in answers):
        reasons = sorted({str(one.rejection.reason) for one in answers if one.rejection})
        raise NothingToDoError(f"all {len(answers)} items were rejected ({', '.join(reasons)}); check --path")
    return answers


def read_items(batch: pa.Table) -> Iterator[pa.Table]:
    """Sources in, a table for each item out; a file that cannot be read at all is one rejected item."""
    for row in batch.to_pylist():
        source: Source = pickle.loads(row["source"])
        number = 0
        try:
            for number, item in enumerate(source.items(), start=1):  # noqa: B007 - counts for the handler
                yield _packed([item])
        except RejectedError as err:
            yield _packed([rejected_item(f"{source.name}#{number}", "", "", err.reason, err.detail)])
        except StorageError:
            raise  # a store that is away says nothing about the file
        except Exception as err:  # the stage's boundary: whatever a file provokes stays with it
            logger.warning("%s cannot be read on from item %d (%s)", source.name, number, type(err).__name__)
            detail = f"the file cannot be read on from item {number} ({type(err).__name__})"
            yield _packed([rejected_item(f"{source.name}#{number}", "", "", Reason.UNREADABLE, detail)])


class Answerer:
    """Answers items. Weights load once.

    Args:
        run: The model, its engine, and who watches.
        kept: Answers that are there, and where new ones go.
    """

    def __init__(self, run: RunContext, kept: KeptAnswers) -> None:
        self._kept, self._known = kept, kept.read()
        self._guarded = Guarded(run, "draft")
        self._config = run.config.engine
        self._engine = open_engine(registry.fetch(run.workspace, run.model_version), self._config)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Items in, answers out, in order."""
        items: list[Item] = [pickle.loads(row["packed"]) for row in batch.to_pylist()]
        new = [item for item in items if item.item_hash not in self._known]
        unit = int(content_id(*(item.place for item in new), length=12), 16)
        results = self._guarded.do(unit, new, self._ask) if new else []
        fresh = [
            _answered(item, result) if isinstance(result, RejectedError) else result
            for item, result in zip(new, results, strict=True)
        ]
        self._kept.keep(fresh)
        waiting = iter(fresh)
        return _packed(
            [
                _remembered(item, known) if (known := self._known.get(item.item_hash)) else next(waiting)
                for item in items
            ]
        )

    def _ask(self, items: Sequence[Item]) -> list[Answered | RejectedError]:
        """What the model makes of items; one that breaks the engine breaks it alone."""
        asked = [_conversation(item) for item in items]
        sent = [one for one in asked if not isinstance(one, RejectedError)]
        try:
            results = iter(self._engine.answer(sent, max_new_tokens=self._config.max_report_tokens))
        except Exception as err:  # the stage's boundary: whatever an item provokes stays with it
            if len(items) > 1:
                return [found for item in items for found in self._ask([item])]
            return [RejectedError(Reason.MODEL_FAILED, type(err).__name__)]
        return [
            _unasked(item, one) if isinstance(one, RejectedError) else _answered(item, next(results))
            for item, one in zip(items, asked, strict=True)
        ]


def _packed(values: Sequence[Item | Answered]) -> pa.Table:
    return pa.table({"packed": [pickle.dumps(value) for value in values]}, schema=PACKED)


def _conversation(item: Item) -> list[ChatMessage] | RejectedError:
    """The conversation with its pictures decoded, or why there is none."""
    if item.rejection:
        return item.rejection
    try:
        pictures = [Image.fromarray(decode_frame(data)) for data in item.images]
    except RejectedError as err:
        return err
    messages: list[ChatMessage] = []
    for role, text in item.turns:
        parts: list[ChatPart] = []
        if role == "user":
            parts += [{"type": "image", "image": picture} for picture in pictures]
            pictures = []
        messages.append({"role": role, "content": [*parts, {"type": "text", "text": text}]})
    return messages


def _unasked(item: Item, rejection: RejectedError) -> Answered:
    """An item whose data is at fault; what it holds is still part of what names the data."""
    kept = dataclasses.replace(item, images=(), rejection=rejection)
    return Answered(kept, item.item_hash, None, rejection=rejection)


def _answered(item: Item, outcome: ChatResult | RejectedError) -> Answered:
    kept = dataclasses.replace(item, images=())
    if isinstance(outcome, ChatResult):
        return Answered(kept, item.item_hash, outcome.text, num_tokens=outcome.completion_tokens)
    return Answered(kept, item.item_hash, None, rejection=outcome)


def _remembered(item: Item, known: KeptAnswer) -> Answered:
    kept = dataclasses.replace(item, images=())
    return Answered(kept, item.item_hash, known.answer, known.rejection, known.num_tokens)


def _split(place: str) -> tuple[str, int]:
    name, _, number = place.rpartition("#")
    return name, int(number)


def check_counts(answers: Iterable[Answered]) -> None:
    """in = out: each file's numbers run from 0 without a gap and without one that comes twice."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for one in answers:
        name, number = _split(one.item.place)
        numbers[name].append(number)
    if not numbers:
        raise NothingToDoError("the benchmark's files hold no item; check --path")
    for name, found in numbers.items():
        if found != list(range(len(found))):
            raise CountError(f"{name}: expected items 0 to {len(found) - 1}, each once; evaluate again")
