"""What a study keeps: its size, the steps of a round, and the figures of a round; all of it as JSON files.

``<output>/seed-<s>/<strategy>/round-<r>/<record>.json``, beside the arm's workspace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.config import Strategy
from sonoloop.jobs.demo.comparison import Round

Record = TypeVar("Record", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudySize(_Record):
    """What all arms of a study share; more seeds, strategies and rounds can be added later."""

    cases: int = Field(ge=2, description="studies of the pool")
    per_round: int = Field(ge=1, description="cases read in each round")
    first: int = Field(ge=1, description="cases read before the first choice, by lot")
    test: int = Field(ge=8, description="studies that every round is measured on")
    settings: str = Field(description="TOML: every section of a configuration that is not the default")


class Chosen(_Record):
    """Which cases were read in a round, and how much of their drafts had to be changed."""

    case_ids: tuple[str, ...]
    organs: dict[str, int]
    edits_per_case: float | None
    drafted_by: str


class Trained(_Record):
    """What was trained in a round."""

    challenger: str
    num_train: int
    num_test: int
    loss: float
    seconds: float


class Gated(_Record):
    """What the gate said."""

    promoted: bool
    reason: str


class RoundResult(_Record):
    """How the model that drafts after a round stands against the truth."""

    seed: int
    strategy: Strategy
    round: int
    num_reviews: int
    chosen: Chosen
    trained: Trained | None
    gated: Gated | None
    test: Round
    test_by_part: dict[str, Round]
    seconds: float


def round_file(output: Path, seed: int, strategy: str, number: int, record: type[BaseModel]) -> Path:
    """Where a record of a round lies."""
    return output / f"seed-{seed}" / strategy / f"round-{number}" / f"{record.__name__.lower()}.json"


def kept(path: Path, record: type[Record], make: Callable[[], Record]) -> Record:
    """What a step gave: read where it was done before; else done, and written whole or not at all."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        unfinished.write_text(found.model_dump_json(indent=2))
        unfinished.rename(path)
    return record.model_validate_json(path.read_text())


def read_results(output: Path) -> Iterator[RoundResult]:
    """Every finished round, in no order."""
    for path in output.glob(f"seed-*/*/round-*/{RoundResult.__name__.lower()}.json"):
        yield RoundResult.model_validate_json(path.read_text())


def check_size(output: Path, size: StudySize) -> None:
    """Write down the size of a new study.

    Raises:
        ValueError: a study of another size was begun there.
    """
    path = output / "study.json"
    if not path.exists():
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(size.model_dump_json(indent=2))
    elif (found := StudySize.model_validate_json(path.read_text())) != size:
        differ = [name for name in StudySize.model_fields if getattr(found, name) != getattr(size, name)]
        raise ValueError(f"{output} holds a study with other {', '.join(differ)}; give another --output")
