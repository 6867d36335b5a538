"""One arm of the study, round by round: choose, read, train, judge, measure. Imports Ray; see `study`.

Every step of a round leaves a small JSON file, and a step whose file is there is not done again: a study that
was killed goes on where it was. The workspace is an ordinary one; `sonoloop status` and `report` read it.
"""

from __future__ import annotations

import shutil
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from study_archive import held_out_of, pool_of, truth_of, write_studies
from study_choice import choose_cases
from study_figures import draw, table
from study_reader import num_edited, read_cases_of_round
from study_results import (
    Chosen,
    Gated,
    Record,
    RoundResult,
    StudySize,
    Trained,
    check_size,
    kept,
    read_results,
    round_file,
)

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.annotating.selection import Selection
from sonoloop.jobs.config import Config, Strategy
from sonoloop.jobs.demo.comparison import measure
from sonoloop.jobs.evaluate import run_evaluate
from sonoloop.jobs.finetune import run_finetune
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.jobs.output import progress
from sonoloop.jobs.promote import run_promote
from sonoloop.jobs.runs import ray_session
from sonoloop.model.metrics import Described
from sonoloop.platform import registry
from sonoloop.platform.cluster import RayConfig
from sonoloop.platform.errors import GateRefusedError, TooManyRejectionsError
from sonoloop.platform.tables import read_cases, read_reviews
from sonoloop.platform.workspace import Store


@dataclass(frozen=True)
class Arm:
    """One seed and strategy: its workspace, and the cases that may be chosen and that are measured on."""

    output: Path
    size: StudySize
    seed: int
    strategy: Strategy
    config: Config
    pool: dict[str, Described]
    test: dict[str, Described]

    @property
    def workspace(self) -> Store:
        """An ordinary workspace."""
        return Store(self.config.workspace)

    @property
    def champion(self) -> str:
        """The model that drafts now."""
        return registry.resolve(self.workspace, self.config.model.name)


def run_study(
    output: Path,
    strategies: Sequence[Strategy],
    *,
    num_seeds: int,
    num_rounds: int,
    num_cases: int,
    num_per_round: int,
    num_first: int,
    num_test: int,
    settings: Path,
) -> None:
    """Every round of every seed and strategy that is not done, then plot and table of all that are.

    Raises:
        ValueError: the folder holds a study of another size.
    """
    size = StudySize(
        cases=num_cases,
        per_round=num_per_round,
        first=num_first,
        test=num_test,
        settings=settings.read_text(),
    )
    check_size(output, size)
    with ray_session(RayConfig()):
        for seed, strategy in product(range(num_seeds), strategies):
            arm = open_arm(output, size, seed, strategy)
            for number in range(num_rounds + 1):
                _say(go_round(arm, number))
    results = list(read_results(output))
    draw(output / "study.png", results)
    (output / "study.md").write_text(table(results))
    progress.print(f"written: {output}/study.png, {output}/study.md")


def _say(found: RoundResult) -> None:
    scores = found.test.scores
    progress.print(
        f"seed {found.seed}, {found.strategy}, round {found.round}: {found.num_reviews} reviews, "
        f"macro-F1 {scores.entity_macro_f1:.3f}, edits {found.test.edits_per_case:.2f}, {found.seconds:.0f} s"
    )


def open_arm(output: Path, size: StudySize, seed: int, strategy: Strategy) -> Arm:
    """Make the seed's archive, index it, let the embedded model draft it, once; copy it for the arm."""
    start = output / f"seed-{seed}" / "start"
    if not (start / "ready").exists():
        _make_start(start, size, seed)
    folder = output / f"seed-{seed}" / strategy
    if not (folder / "workspace").exists():
        progress.print(f"seed {seed}, {strategy}: copy the workspace")
        shutil.copytree(start / "workspace", folder / "copying", dirs_exist_ok=True)
        (folder / "copying").rename(folder / "workspace")
    config = _config(size, folder / "workspace", start / "archive")
    workspace = Store(config.workspace)
    pool, test = (truth_of(start / "truth" / part, workspace) for part in ("pool", "test"))
    return Arm(output, size, seed, strategy, config, pool, test)


def go_round(arm: Arm, number: int) -> RoundResult:
    """One round, as far as it is not done; round 0 measures what is there before anybody has read a case."""
    begin = time.monotonic()
    chosen = _kept(arm, number, Chosen, lambda: _choose(arm, number))
    trained = gated = None
    if number:
        trained = _kept(arm, number, Trained, lambda: _train(arm))
        gated = _kept(arm, number, Gated, lambda: _judge(arm, trained.challenger))
    return _kept(arm, number, RoundResult, lambda: _measure(arm, number, chosen, trained, gated, begin))


def _make_start(start: Path, size: StudySize, seed: int) -> None:
    progress.print(f"seed {seed}: phantoms, index, first drafts")
    shutil.rmtree(start, ignore_errors=True)
    archive, workspace = start / "archive", start / "workspace"
    workspace.mkdir(parents=True)
    write_studies(archive / "pool", start / "truth" / "pool", pool_of(seed, size.cases))
    write_studies(archive / "test", start / "truth" / "test", held_out_of(size.test))
    config = _config(size, workspace, archive)
    run_init(config)
    run_index(config)
    run_annotate(config)
    (start / "ready").touch()


def _config(size: StudySize, workspace: Path, archive: Path) -> Config:
    settings = tomllib.loads(size.settings)
    return Config.model_validate(
        {**settings, "workspace": str(workspace.absolute()), "archive": str(archive.absolute())}
    )


def _kept(arm: Arm, number: int, model: type[Record], make: Callable[[], Record]) -> Record:
    return kept(round_file(arm.output, arm.seed, arm.strategy, number, model), model, make)


def _choose(arm: Arm, number: int) -> Chosen:
    """Choose and read; a first batch by lot, the same for every strategy, before the first choice."""
    strategy, budget = (arm.strategy, arm.size.per_round) if number else ("random", arm.size.first)
    champion = arm.champion
    run_annotate(arm.config, Selection(case_ids=_unread(arm)), model=champion)
    case_ids = choose_cases(arm.workspace, champion, strategy, budget, pool=arm.pool, seed=arm.seed)
    reviews = read_cases_of_round(arm.workspace, champion, case_ids, arm.pool, number)
    organs = Counter(
        str(true.entities.organ) for true in map(arm.pool.get, case_ids) if true and true.entities
    )
    edits = sum(map(num_edited, reviews)) / len(reviews) if reviews else None
    return Chosen(case_ids=tuple(case_ids), organs=dict(organs), edits_per_case=edits, drafted_by=champion)


def _unread(arm: Arm) -> frozenset[str]:
    return frozenset(arm.pool) - {review.case_id for review in read_reviews(arm.workspace)}


def _train(arm: Arm) -> Trained:
    found = run_finetune(arm.config)
    return Trained(
        challenger=found.challenger,
        num_train=found.num_train,
        num_test=found.num_test,
        loss=found.loss,
        seconds=found.seconds,
    )


def _judge(arm: Arm, challenger: str) -> Gated:
    """Evaluate and promote; a refusal is a result, and so is a challenger that drafts next to nothing."""
    if arm.champion == challenger:  # killed after the promotion, before it was written down
        return Gated(promoted=True, reason="promoted before an interruption")
    try:
        run_evaluate(arm.config)
        return Gated(promoted=True, reason=run_promote(arm.config).reason)
    except (GateRefusedError, TooManyRejectionsError) as err:
        return Gated(promoted=False, reason=str(err))


def _measure(
    arm: Arm, number: int, chosen: Chosen, trained: Trained | None, gated: Gated | None, begin: float
) -> RoundResult:
    """The champion against the truth, on the cases that nobody reads."""
    champion = arm.champion
    run_annotate(arm.config, Selection(case_ids=frozenset(arm.test)), model=champion)
    by_organ = {case.case_id: case.organ_hint for case in read_cases(arm.workspace)}
    known = {key: true for key, true in arm.test.items() if by_organ[key] in ("breast", "thyroid")}
    new = {key: true for key, true in arm.test.items() if key not in known}
    return RoundResult(
        seed=arm.seed,
        strategy=arm.strategy,
        round=number,
        num_reviews=len({review.case_id for review in read_reviews(arm.workspace)}),
        chosen=chosen,
        trained=trained,
        gated=gated,
        test=measure(arm.workspace, champion, arm.test),
        test_by_part={
            "breast, thyroid": measure(arm.workspace, champion, known),
            "liver, kidney": measure(arm.workspace, champion, new),
        },
        seconds=time.monotonic() - begin,
    )
