"""The loop study's own parts: its archive, its reader, its choice, and the figures over seeds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from said import LEFT_BOX, entities
from study_archive import KNOWN, TEST_SEED, held_out_of, pool_of
from study_choice import choose_cases
from study_figures import band_of, differences, draw, table
from study_reader import num_edited, read_cases_of_round
from study_results import Chosen, Gated, RoundResult, StudySize, check_size, kept, read_results, round_file

from sonoloop.jobs.config import Strategy
from sonoloop.jobs.demo.comparison import Round
from sonoloop.model.metrics import Described, score
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.lexicon import parse_entities
from sonoloop.platform.phantoms.archive import build_study
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord
from sonoloop.platform.tables import current_reviews
from sonoloop.platform.workspace import Store

MODEL = "m/1"
COARSE = entities(parenchyma="coarse")
TRUTH = Described("The liver is coarse.", "Coarse liver.", parse_entities(COARSE), ())
IMAGE = CaseImage(instance_id="i", frame_index=0, image_key="images/ab/ab.png", width=10, height=10)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Five drafted cases, from the least sure to the surest; a coarse liver in each."""
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    store = Store(str(tmp_path))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    cases = [
        CaseRecord(
            case_id=name, patient_key=name, organ_hint="liver", scanner="A", images=(IMAGE,), indexed_at=at
        )
        for name in "abcde"
    ]
    store.write_table(CaseRecord.table(cases), "cases", "0.parquet")
    drafts = [_draft(name, sure) for name, sure in zip("abcde", (0.5, 0.6, 0.7, 0.8, 0.9), strict=True)]
    store.write_table(DraftRecord.table(drafts), "drafts", "r", "0.parquet")
    return store


def _draft(case_id: str, sure: float) -> DraftRecord:
    """Right, but for a lesion box that is not there in case e."""
    return DraftRecord(
        case_id=case_id,
        run_id="r",
        model_version=MODEL,
        prompt_version=PROMPT_VERSION,
        config_hash="h",
        status="draft",
        findings=TRUTH.findings,
        impression=TRUTH.impression,
        entities=COARSE if case_id != "d" else entities(parenchyma="normal"),
        boxes=(LEFT_BOX,) if case_id == "e" else (),
        value_probabilities={"parenchyma": sure},
        confidence=sure,
    )


def test_the_reader_keeps_what_is_right_and_corrects_what_is_not(workspace: Store) -> None:
    right, wrong = read_cases_of_round(workspace, MODEL, ["a", "d"], {"a": TRUTH, "d": TRUTH}, 1)
    assert num_edited(right) == 0
    assert right.origins["parenchyma"] == "prediction"
    assert (right.model_version, right.findings) == (MODEL, TRUTH.findings)
    assert wrong.origins["parenchyma"] == "prediction-changed"
    assert wrong.parsed_entities() == TRUTH.entities
    assert wrong.lead_time_s is not None
    assert right.lead_time_s is not None
    assert wrong.lead_time_s > right.lead_time_s


def test_a_box_that_is_not_there_is_taken_away(workspace: Store) -> None:
    (review,) = read_cases_of_round(workspace, MODEL, ["e"], {"e": TRUTH}, 1)
    assert review.boxes == ()


def test_the_same_round_read_again_changes_nothing(workspace: Store) -> None:
    first = read_cases_of_round(workspace, MODEL, ["a", "b"], dict.fromkeys("ab", TRUTH), 2)
    again = read_cases_of_round(workspace, MODEL, ["a", "b"], dict.fromkeys("ab", TRUTH), 2)
    assert first == again
    assert len(current_reviews(workspace)) == 2


@pytest.mark.parametrize(("strategy", "chosen"), [("uncertain", ["b", "c"]), ("certain", ["d", "c"])])
def test_a_strategy_takes_its_cases_from_the_pool_and_none_that_was_read(
    workspace: Store, strategy: Strategy, chosen: list[str]
) -> None:
    read_cases_of_round(workspace, MODEL, ["a"], {"a": TRUTH}, 0)
    assert choose_cases(workspace, MODEL, strategy, 2, pool="abcd", seed=0) == chosen


def test_half_of_the_pool_is_known_and_the_test_set_has_as_many_of_each_kind() -> None:
    pool, test = pool_of(0, 51), held_out_of(16)
    assert sum(group.count for group in pool.groups) == 51
    known = sum(group.count for group in pool.groups if (group.organ, group.scanner) in KNOWN)
    assert known == 25
    assert {group.count for group in test.groups} == {2}


def test_a_study_of_the_test_set_is_in_no_pool() -> None:
    group = pool_of(0, 16).groups[0]
    one, other = (
        build_study(pool, 0, group.organ, group.scanner, 0) for pool in (pool_of(0, 16), held_out_of(16))
    )
    assert one.truth.study_uid != other.truth.study_uid
    assert one.files[0][1] != other.files[0][1]
    assert TEST_SEED > 1000


def test_a_band_is_students_interval_over_the_seeds() -> None:
    found = band_of([{0: 1.0, 1: 4.0}, {0: 2.0}, {0: 3.0}])
    # standard error 1 / sqrt(3), t of two degrees of freedom 4.3027
    assert (found.rounds, found.mean) == ((0, 1), (2.0, 4.0))
    assert found.high[0] - found.mean[0] == pytest.approx(4.3027 / 3**0.5, abs=1e-3)
    assert found.low[1] == found.high[1] == 4


def test_differences_are_taken_within_a_seed_where_both_strategies_have_the_round() -> None:
    one, other = {0: {0: 1.0, 1: 3.0}, 1: {0: 5.0}}, {0: {0: 0.5}, 2: {0: 9.0}}
    assert differences(one, other) == {0: {0: 0.5}}


def _result(seed: int, strategy: Strategy, number: int, shift: float) -> RoundResult:
    drafted = Described(TRUTH.findings, "", TRUTH.entities, ())
    measured = Round(model_version=MODEL, scores=score([drafted], [TRUTH]), edits_per_case=3 - shift)
    return RoundResult(
        seed=seed,
        strategy=strategy,
        round=number,
        num_reviews=number,
        chosen=Chosen(case_ids=(), organs={}, edits_per_case=2.0 + shift, drafted_by=MODEL),
        trained=None,
        gated=Gated(promoted=True, reason="better") if number else None,
        test=measured,
        test_by_part={"liver, kidney": measured},
        seconds=1,
    )


def test_figures_of_both_strategies_are_drawn_and_tabled_from_what_is_kept(tmp_path: Path) -> None:
    strategies: tuple[Strategy, Strategy] = ("uncertain", "random")
    for seed in range(3):
        for strategy in strategies:
            for number in range(3):
                one = _result(seed, strategy, number, shift=number * 0.5 + seed * 0.1)
                path = round_file(tmp_path, seed, strategy, number, RoundResult)
                path.parent.mkdir(parents=True)
                path.write_text(one.model_dump_json())
    results = list(read_results(tmp_path))
    assert len(results) == 18
    draw(tmp_path / "study.png", results)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    rows = table(results).splitlines()
    assert len(rows) == 2 + 6
    assert "| uncertain | 2 |" in rows[4]
    assert "1.900 [" in rows[4]  # 3 - 1 - the mean seed's 0.1


def test_a_step_that_is_done_is_not_done_again_and_one_that_failed_is(tmp_path: Path) -> None:
    path, asked = tmp_path / "round-1" / "gated.json", []

    def judge() -> Gated:
        asked.append(1)
        if len(asked) == 1:
            raise OSError("killed")
        return Gated(promoted=False, reason="too few")

    with pytest.raises(OSError, match="killed"):
        kept(path, Gated, judge)
    assert kept(path, Gated, judge) == kept(path, Gated, judge)
    assert len(asked) == 2


def test_a_folder_with_a_study_of_another_size_is_refused(tmp_path: Path) -> None:
    size = StudySize(cases=48, per_round=12, first=12, test=16, settings="")
    check_size(tmp_path, size)
    check_size(tmp_path, size)
    with pytest.raises(ValueError, match="other per_round"):
        check_size(tmp_path, size.model_copy(update={"per_round": 13}))
