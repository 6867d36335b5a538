"""The loss curve: one record per step, kept in ``runs/<run_id>/metrics.jsonl``, a line each.

It travels inside the checkpoints, so that a training that goes on continues the very curve of what it goes on
with; the copy in the run's folder is for people, for example ``pandas.read_json(path, lines=True)``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.workspace import Store

CURVE_FILE = "metrics.jsonl"


class StepRecord(BaseModel):
    """What one step did."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: int = Field(description="from 0")
    epoch: int = Field(description="from 0")
    loss: float = Field(description="cross-entropy per answered token, over all workers")
    aux_loss: float = Field(description="load balancing of the experts, 0 where it is off")
    learning_rate: float = Field(description="of the first group of parameters")
    gradient_norm: float | None = Field(description="before clipping; null where DeepSpeed does not tell")
    num_tokens: int = Field(description="tokens read, over all workers, padding left out")
    seconds: float = Field(description="from the step before, waiting for examples included")
    workers: int = Field(description="that took part")
    least_used_expert_share: float | None = Field(
        default=None, description="at an epoch's end: the worst layer's smallest share of an even share"
    )
    expert_balance: float | None = Field(
        default=None, description="at an epoch's end: the worst layer's normalised entropy, 1 is even"
    )


def to_lines(records: Sequence[StepRecord]) -> bytes:
    """The curve as JSON lines."""
    return "".join(f"{record.model_dump_json()}\n" for record in records).encode()


def from_lines(data: bytes) -> list[StepRecord]:
    """The curve of `to_lines`."""
    return [StepRecord.model_validate_json(line) for line in data.splitlines()]


def read_curve(workspace: Store, run_id: str) -> list[StepRecord]:
    """The curve of a run as far as its last checkpoint; empty before the first."""
    try:
        return from_lines(workspace.read_bytes("runs", run_id, CURVE_FILE))
    except FileNotFoundError:
        return []


def write_curve(workspace: Store, run_id: str, records: Sequence[StepRecord]) -> None:
    """Write the curve as it is by now; it has one writer, rank 0."""
    workspace.write_bytes(to_lines(records), "runs", run_id, CURVE_FILE)
