"""A model version: what it was made from, what was decided about it, and what it was used for."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.runs import read_run
from sonoloop.jobs.tracing.ledgers import learned_from, reviews_where, snapshot_rows, standing, tasks_where
from sonoloop.jobs.tracing.rows import counted
from sonoloop.platform import registry
from sonoloop.platform.registry import Span
from sonoloop.platform.registry.names import DECISION, place_of
from sonoloop.platform.sorted_rooms import DRAFTS, stream
from sonoloop.platform.tables import of_version
from sonoloop.platform.workspace import Store


class Told(BaseModel):
    """A frozen part of a lineage."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ancestor(Told):
    """A version that another was made from, or where its line begins."""

    model_version: str
    snapshot: str | None
    run: str | None
    retired: bool

    def __str__(self) -> str:
        """One line."""
        trained = f", trained on snapshot {self.snapshot}" if self.snapshot else ""
        return f"{self.model_version}{trained}{', weights retired' if self.retired else ''}"


class Learned(Told):
    """What a version learned from, and what was held out."""

    snapshot: str
    reviews: dict[str, int] = Field(description="side of the split to its reviews")
    readers: dict[str, int] = Field(description="pseudonym to their reviews on the training side")
    began_from: dict[str, int] = Field(description="model version whose drafts these reviews began from")

    def __str__(self) -> str:
        """One line."""
        sides = ", ".join(f"{number} {side}" for side, number in self.reviews.items())
        return f"snapshot {self.snapshot}: {sides} reviews by {len(self.readers)} readers"


class TrainingRun(Told):
    """The run that made a version."""

    run_id: str
    state: str
    started_at: datetime
    seconds: float | None
    versions: dict[str, str]

    def __str__(self) -> str:
        """One line."""
        took = "" if self.seconds is None else f", {self.seconds:.0f} s"
        return f"{self.run_id}, {self.state}, begun {self.started_at:%Y-%m-%d %H:%M}{took}"


class Decided(Told):
    """What the gate said."""

    promoted: bool
    reason: str
    decided_at: str | None

    def __str__(self) -> str:
        """One line."""
        return f"{'promoted' if self.promoted else 'not promoted'} on {self.decided_at}: {self.reason}"


class Written(Told):
    """Drafts of one run with one prompt version."""

    run_id: str
    prompt_version: str
    drafted: int
    rejected: int

    def __str__(self) -> str:
        """One line."""
        return f"{self.run_id}, prompt {self.prompt_version}: {self.drafted} drafts, {self.rejected} rejected"


class Descendant(Told):
    """A version that was trained from this one, or from reviews of its drafts, or both."""

    model_version: str
    is_base: bool
    num_reviews: int = Field(description="reviews it learned from that began from drafts of this one")

    def __str__(self) -> str:
        """One line."""
        base = "trained from it, " if self.is_base else ""
        return f"{self.model_version}: {base}learned from {self.num_reviews} reviews of its drafts"


class ModelLineage(Told):
    """Everything that led to a version and followed from it."""

    model_version: str
    aliases: tuple[str, ...]
    published_at: str | None
    retired: str | None
    ancestors: tuple[Ancestor, ...] = Field(description="the base first, the beginning of the line last")
    beginning: str | None = Field(description="what the first ancestor came from")
    learned: Learned | None
    run: TrainingRun | None
    evaluations: tuple[str, ...]
    decision: Decided | None
    times: tuple[Span, ...] = Field(description="when it had which alias")
    drafts: tuple[Written, ...]
    tasks: dict[str, int] = Field(description="project to its tasks that show a draft of this version")
    reviews: int = Field(description="that began from its drafts")
    descendants: tuple[Descendant, ...]


def trace_model(workspace: Store, model_version: str) -> ModelLineage:
    """The lineage of a version.

    Raises:
        StorageError: the workspace cannot be read.
    """
    lineage = registry.read_lineage(workspace, model_version)
    chain, beginning = _ancestors(workspace, model_version)
    retired = registry.read_retired(workspace, model_version)
    name = model_version.partition("/")[0]
    aliases = registry.read_aliases(workspace, name).model_dump()
    tasks = tasks_where(workspace)
    showing = tasks.filter(
        pc.and_(pc.equal(tasks["model_version"], model_version), pc.equal(tasks["state"], "sent"))
    )
    reviews = standing(reviews_where(workspace))
    return ModelLineage(
        model_version=model_version,
        aliases=tuple(alias for alias, version in aliases.items() if version == model_version),
        published_at=lineage.get("published_at"),
        retired=None if retired is None else f"{retired.at:%Y-%m-%d}: {retired.reason}",
        ancestors=tuple(chain),
        beginning=beginning,
        learned=_learned(workspace, lineage.get("snapshot")),
        run=_run(workspace, lineage.get("run")),
        evaluations=tuple(registry.read_evaluations(workspace, model_version)),
        decision=_decision(workspace, model_version),
        times=tuple(registry.spans_of(registry.alias_changes(workspace, name), model_version)),
        drafts=tuple(_written(workspace, model_version)),
        tasks=counted(showing["project"]),
        reviews=int(pc.sum(pc.equal(reviews["model_version"], model_version)).as_py() or 0),
        descendants=tuple(_descendants(workspace, model_version)),
    )


def _ancestors(workspace: Store, model_version: str) -> tuple[list[Ancestor], str | None]:
    """The bases from the nearest on, and what the last one says that it came from."""
    chain: list[Ancestor] = []
    seen, base = {model_version}, registry.base_of(registry.read_lineage(workspace, model_version))
    while base is not None and base not in seen and (own := registry.read_lineage(workspace, base)):
        seen.add(base)
        retired = registry.read_retired(workspace, base) is not None
        snapshot, run = own.get("snapshot"), own.get("run")
        chain.append(Ancestor(model_version=base, snapshot=snapshot, run=run, retired=retired))
        base = registry.base_of(own)
    return chain, base


def _learned(workspace: Store, snapshot: str | None) -> Learned | None:
    if snapshot is None:
        return None
    rows = snapshot_rows(workspace, snapshot)
    train = rows.filter(pc.equal(rows["split"], "train"))
    return Learned(
        snapshot=snapshot,
        reviews=counted(rows["split"]),
        readers=counted(train["reader"]),
        began_from=counted(train["model_version"]),
    )


def _run(workspace: Store, run_id: str | None) -> TrainingRun | None:
    run = None if run_id is None else read_run(workspace, run_id)
    if run is None:
        return None
    return TrainingRun.model_validate(run.model_dump(include=set(TrainingRun.model_fields)))


def _decision(workspace: Store, model_version: str) -> Decided | None:
    found = registry.read_object(workspace, *place_of(model_version), DECISION)
    if "promoted" not in found:
        return None
    reason = found.get("reason")
    return Decided(promoted=bool(found["promoted"]), reason=str(reason), decided_at=found.get("decided_at"))


def _written(workspace: Store, model_version: str) -> list[Written]:
    counts: Counter[tuple[str, str, str]] = Counter()
    keys = ["run_id", "prompt_version", "status"]
    for table in stream(workspace, DRAFTS, columns=keys, where=of_version(model_version, None)):
        for row in table.group_by(keys).aggregate([([], "count_all")]).to_pylist():
            counts[row["run_id"], row["prompt_version"], row["status"]] += row["count_all"]
    return [
        Written(
            run_id=run_id,
            prompt_version=prompt,
            drafted=counts[run_id, prompt, "draft"],
            rejected=counts[run_id, prompt, "rejected"],
        )
        for run_id, prompt in sorted({key[:2] for key in counts})
    ]


def _descendants(workspace: Store, model_version: str) -> list[Descendant]:
    began = {snapshot: _num_began(workspace, snapshot, model_version) for snapshot in learned_from(workspace)}
    found = []
    for version in registry.model_versions(workspace):
        lineage = registry.read_lineage(workspace, version)
        is_base = registry.base_of(lineage) == model_version
        number = began.get(str(lineage.get("snapshot")), 0)
        if is_base or number:
            found.append(Descendant(model_version=version, is_base=is_base, num_reviews=number))
    return found


def _num_began(workspace: Store, snapshot: str, model_version: str) -> int:
    learned = _learned(workspace, snapshot)
    return 0 if learned is None else learned.began_from.get(model_version, 0)
