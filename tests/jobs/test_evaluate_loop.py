"""What `sonoloop evaluate` makes of held-out reviews and the drafts of a model."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from tests.jobs.outcomes import outcome, outcomes, store
from tests.jobs.test_calibrating import COARSE, MODEL, NORMAL, PROMPT, draft, row
from typer.testing import CliRunner

from sonoloop.jobs import evaluate as verb
from sonoloop.jobs.evaluating.figures import break_down, figures_of
from sonoloop.jobs.evaluating.held_out import held_out, rows_of
from sonoloop.jobs.evaluating.loop import measure
from sonoloop.jobs.evaluating.outcomes import CaseOutcome, read_outcomes, write_outcomes
from sonoloop.jobs.evaluating.stored import Evaluation, read_evaluation
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.model.calibration import calibration_error, judged_values
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.records import CaseRecord, DraftRecord
from sonoloop.platform.sorted_rooms import DRAFTS
from sonoloop.platform.workspace import Store

NUM = 60
BOX = {"image_index": 0, "x": 0.1, "y": 0.1, "width": 0.4, "height": 0.4}
HALF = {**BOX, "width": 0.2}


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def case(case_id: str, number: int) -> CaseRecord:
    scanner = None if number % 5 == 0 else f"maker {number % 2}"
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return CaseRecord(
        case_id=case_id, patient_key="p", organ_hint=None, scanner=scanner, images=(), indexed_at=at
    )


def fill(workspace: Store) -> list[SnapshotRow]:
    """Sixty cases of thirty patients: of each ten, one without a draft, one rejected, one half empty."""
    names = [f"c{number:03}" for number in range(NUM)]
    texts = {"findings": "liver of normal size and echo", "impression": "normal liver"}
    rows, drafts = [], []
    for number, name in enumerate(names):
        entities, boxes = (COARSE, (BOX,)) if number % 2 else (NORMAL, ())
        review = row(name, entities, f"{number // 2:08x}")
        rows.append(SnapshotRow.model_validate({**review.model_dump(), **texts, "boxes": boxes}))
        said = {**texts, "boxes": (HALF,) if boxes else (), "num_tokens": 40 + number, "run_id": "r"}
        if number % 10 == 1:
            said = {"status": "rejected", "entities": None, "value_probabilities": {}, "reason": "timed-out"}
        elif number % 10 == 2:
            said["impression"] = "  "
        elif number % 10 == 3:
            continue
        drafts.append(draft(name, **said))
    others = [draft(f"other{number}", findings="x", impression="y") for number in range(5)]
    older = [draft(name, prompt_version="older", findings="x", impression="y") for name in names]
    workspace.write_table(
        CaseRecord.table([case(n, i) for i, n in enumerate(names)]).sort_by("case_id"), "cases", "0.parquet"
    )
    for part, found in enumerate((drafts, others, older)):
        workspace.write_table(DraftRecord.table(found).sort_by("case_id"), "drafts", str(part), "0.parquet")
    return rows


def run(workspace: Store) -> tuple[Evaluation, list[CaseOutcome], list[SnapshotRow]]:
    rows = fill(workspace)
    evaluation = measure(workspace, (MODEL, PROMPT), snapshot="s", rows=rows)
    found = read_outcomes(workspace, MODEL, "s")
    assert found is not None
    return evaluation, found, rows


def test_there_is_one_outcome_for_each_held_out_case_drafted_or_not(workspace: Store) -> None:
    _, found, rows = run(workspace)
    assert [one.case_id for one in found] == [one.case_id for one in rows]
    assert [one.drafted for one in found[:4]] == [True, False, True, False]
    assert [one.is_usable for one in found[:5]] == [True, False, False, False, True]
    assert {one.organ for one in found} == {"liver"}
    assert (found[1].num_tokens, found[4].num_tokens) == (None, 44)
    assert found[1].said == frozenset()
    assert found[1].num_edits == found[1].num_fields == 3 + 3  # organ, parenchyma, lesion; texts and boxes


def test_figures_agree_with_those_of_the_metrics_written_for_whole_sets(workspace: Store) -> None:
    """Two ways to each figure: sums over cases here, sacrebleu and plain loops over all texts there."""
    evaluation, found, rows = run(workspace)
    overall, scores = evaluation.breakdown.overall, evaluation.scores
    assert overall.entity_macro_f1.value == pytest.approx(scores.entity_macro_f1)
    assert overall.bleu_1.value == pytest.approx(scores.bleu_1)
    assert overall.rouge_l.value == pytest.approx(scores.rouge_l)
    assert overall.edit_distance.value == pytest.approx(scores.edit_distance)
    assert overall.box_iou.value == pytest.approx(scores.box_iou)
    assert overall.edits_per_case.value == pytest.approx(evaluation.edits_per_case)
    assert overall.calibration_error.value == pytest.approx(evaluation.calibration.ece_after)
    assert overall.kept.value == pytest.approx(evaluation.calibration.share_kept)
    assert overall.kept.n == overall.calibration_error.n == evaluation.calibration.num_values
    assert scores.num_missing == sum(not one.drafted for one in found)
    drafts = {one["case_id"]: DraftRecord.from_row(one) for one in rows_of(workspace, DRAFTS, {"c000"})}
    (plain,) = [judged_values(drafts["c000"], rows[0].parsed_entities(), group="g")]
    bare = figures_of([one.model_copy(update={"judged": found[0].judged}) for one in found[:1]])
    assert bare.calibration_error.n == len(plain)
    assert calibration_error(plain) >= 0


def test_every_figure_says_of_how_many_it_is_and_how_sure(workspace: Store) -> None:
    evaluation, *_ = run(workspace)
    overall = evaluation.breakdown.overall
    assert (overall.num_cases, overall.num_patients) == (NUM, NUM // 2)
    for name in ("entity_macro_f1", "edits_per_case", "bleu_1", "rouge_l", "edit_distance", "usable"):
        figure = getattr(overall, name)
        assert figure.n == NUM
        assert figure.low <= figure.value <= figure.high
        assert figure.low < figure.high
    assert overall.box_iou.n == NUM // 2
    assert overall.seconds_per_case is None  # no run says


def test_parts_by_scanner_add_up_to_the_whole(workspace: Store) -> None:
    evaluation, found, _ = run(workspace)
    scanners = evaluation.breakdown.scanners
    assert scanners.keys() == {"maker 0", "maker 1", "unknown"}
    assert sum(part.num_cases for part in scanners.values()) == NUM
    edits = sum(part.edits_per_case.value * part.num_cases for part in scanners.values())
    assert edits == pytest.approx(sum(one.num_edits for one in found))
    assert scanners["maker 0"] == figures_of([one for one in found if one.scanner == "maker 0"])


def test_confidence_bins_say_how_right_the_sure_ones_are() -> None:
    sure = [outcome(f"s{number}", right=1.0, confidence=0.95) for number in range(10)]
    unsure = [outcome(f"u{number}", right=0.2, confidence=0.55) for number in range(10)]
    certain = [outcome("one", right=1.0, confidence=1.0)]
    silent = [outcome("none", right=1.0, confidence=None, judged=())]
    low, high = break_down([*sure, *unsure, *certain, *silent]).confidence
    assert (low.low, low.high, low.num_cases) == (0.5, 0.6, 10)
    assert (high.low, high.high, high.num_cases) == (0.9, 1.0, 11)
    assert low.kept.value < 0.5
    assert high.kept.value == 1
    assert low.edits_per_case.value > high.edits_per_case.value == 0


def test_confidence_is_calibrated_on_other_patients_where_there_are_enough(workspace: Store) -> None:
    _, found, _ = run(workspace)
    drafted = [one for one in found if one.judged]
    assert all(value.calibrated is not None for one in drafted for value in one.judged)
    parenchyma = sum(one.confidence for one in drafted) / len(drafted)
    kept = [value.kept for one in drafted for value in one.judged]
    assert parenchyma == pytest.approx(sum(kept) / len(kept), abs=0.1)  # 0.97 as decoded


def test_outcomes_come_back_as_they_were_written(workspace: Store) -> None:
    written = [*outcomes(3, right=0.5), outcome("z", right=0.5, organ=None, scanner=None, confidence=None)]
    write_outcomes(workspace, "s", written[::-1])
    assert read_outcomes(workspace, "nano/new", "s") == written
    assert read_outcomes(workspace, "nano/new", "other") is None
    assert read_evaluation(workspace, "nano/new", "s") is None


def test_rows_of_some_cases_are_read_without_the_others(workspace: Store) -> None:
    """Files of thousands of rows make several ranges; only wanted ids come, the newest row of each."""
    for part in range(3):
        found = [draft(f"{part}{number:05}", attempts=1) for number in range(30_000)]
        workspace.write_table(DraftRecord.table(found).sort_by("case_id"), "drafts", str(part), "0.parquet")
    again = [draft("100007", attempts=2, findings="again")]
    workspace.write_table(DraftRecord.table(again), "drafts", "later", "0.parquet")
    wanted = {"000003", "100007", "229999", "absent"}
    got = list(rows_of(workspace, DRAFTS, wanted, columns=("findings",)))
    assert [one["case_id"] for one in got] == ["000003", "100007", "229999"]
    assert got[1]["findings"] == "again"


def test_cases_whose_patient_a_training_saw_are_left_out_of_both_models(workspace: Store) -> None:
    def freeze(name: str, **sides: list[str]) -> None:
        rows = [
            row(case_id, NORMAL, f"patient {case_id[0]}").model_copy(update={"split": side})
            for side, names in sides.items()
            for case_id in names
        ]
        workspace.write_table(SnapshotRow.table(rows), "training", name, "reviews.parquet")

    freeze("now", train=["a1"], test=["b1", "b2", "c1", "d1"])
    freeze("before", train=["b9"], test=[])
    for version, values in {"2": {"base": "nano/1", "snapshot": "now"}, "1": {"snapshot": "before"}}.items():
        workspace.write_bytes(json.dumps(values).encode(), "models", "nano", version, "lineage.json")
    found = held_out(workspace, "now", "nano/0", "nano/2")
    assert [one.case_id for one in found.rows] == ["c1", "d1"]
    assert found.seen == {"nano/2": frozenset(), "nano/1": {"b1", "b2"}}
    assert len(held_out(workspace, "now", "nano/0").rows) == 4


def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(verb.evaluate)
    return made


def test_the_terminal_shows_both_models_side_by_side(
    workspace: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (("liver", 0.4), ("kidney", 0.9))
    old, new = (
        store(
            workspace,
            "s",
            [
                outcome(f"{organ}{n}", right=right + shift, organ=organ, version=f"nano/{shift}")
                for organ, right in kinds
                for n in range(5)
            ],
        )
        for shift in (0.0, 0.1)
    )
    summary = verb.EvaluateSummary(snapshot="s", num_cases=10, champion=old, challenger=new)
    monkeypatch.setattr(verb, "load_config", lambda _: SimpleNamespace())
    monkeypatch.setattr(verb, "run_evaluate", lambda _config, **_: summary)
    shown = CliRunner().invoke(app(), []).stdout
    for words in (
        "champion nano/0.0, challenger nano/0.1",
        "10 held-out cases",
        "By organ",
        "entity macro-F1",
    ):
        assert words in shown
    assert f"{new.breakdown.organs['liver'].entity_macro_f1}" in shown
    as_json = json.loads(CliRunner().invoke(app(), ["--json"]).stdout)
    assert as_json["challenger"]["breakdown"]["overall"]["num_cases"] == 10


def test_a_snapshot_without_held_out_cases_says_what_is_missing(workspace: Store, tmp_path: Path) -> None:
    from sonoloop.jobs.config import Config
    from sonoloop.platform import registry
    from sonoloop.platform.registry import Aliases

    workspace.write_bytes(b'{"snapshot": "s"}', "models", "echovlm-nano", "2", "lineage.json")
    lone = row("a", NORMAL, "p").model_copy(update={"split": "train"})
    workspace.write_table(SnapshotRow.table([lone]), "training", "s", "reviews.parquet")
    aliases = {"champion": "echovlm-nano/1", "challenger": "echovlm-nano/2"}
    registry.set_aliases(workspace, "echovlm-nano", aliases, expected=Aliases())
    with pytest.raises(NothingToDoError, match="more patients must be reviewed"):
        verb.run_evaluate(Config(workspace=str(tmp_path), archive="a"))
