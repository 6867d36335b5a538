"""The beginning of a run: two people at once, an interrupted run, and a look before anything is done."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from sonoloop.jobs.annotating.dry_run import dry_run
from sonoloop.jobs.annotating.plan import Begun, Job, begin, open_job
from sonoloop.jobs.annotating.selection import EVERYTHING, Selection
from sonoloop.jobs.annotating.units import InputParts, read_part
from sonoloop.jobs.config import Config
from sonoloop.jobs.init import run_init
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, KeyRange, SortedFile, write_sorted
from sonoloop.platform.workspace import Store

NUM_CASES = 10


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A workspace with a champion and ten cases."""
    monkeypatch.setenv(KEY_VARIABLE, "a key of the tests, long enough")
    for name in ("workspace", "archive"):
        (tmp_path / name).mkdir()
    config = Config(
        workspace=str(tmp_path / "workspace"),
        archive=str(tmp_path / "archive"),
        annotate={"cases_per_unit": 3, "max_actors": 4, "actor_resources": {"accelerator": 1}},
    )
    run_init(config)
    return config


@pytest.fixture
def workspace(config: Config) -> Store:
    store = config.open_workspace()
    image = CaseImage(image_key="images/a.png", instance_id="i", frame_index=0, width=9, height=9)
    cases = [
        CaseRecord(
            case_id=f"case-{number}",
            patient_key="p",
            organ_hint=None,
            scanner=None,
            images=(image,),
            indexed_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for number in range(NUM_CASES)
    ]
    write_sorted(store, CASES, cases, "cases.parquet")
    return store


def job(config: Config, selection: Selection = EVERYTHING) -> Job:
    return open_job(config, selection, "champion")


def run_id_of(begun: Begun) -> str:
    assert begun.run is not None
    return begun.run.run_id


def cases_of(workspace: Store, begun: Begun) -> list[str]:
    case_ids: list[str] = InputParts(workspace, run_id_of(begun)).case_ids(KeyRange()).to_pylist()
    return case_ids


def drafts(workspace: Store, wish: Job, run_id: str, numbers: range) -> None:
    rows = [
        DraftRecord(
            case_id=f"case-{number}",
            run_id=run_id,
            model_version=wish.model_version,
            prompt_version=wish.prompt_version,
            config_hash="c",
            status="draft",
            attempts=1,
        )
        for number in numbers
    ]
    write_sorted(workspace, DRAFTS, rows, run_id, f"{numbers.start}.parquet")


def test_a_second_person_gets_what_the_first_does_not_hold(
    config: Config, workspace: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = begin(job(config, Selection(limit=4)))
    second = begin(job(config))
    assert cases_of(workspace, first) == [f"case-{number}" for number in range(4)]
    assert cases_of(workspace, second) == [f"case-{number}" for number in range(4, NUM_CASES)]
    assert second.counts is not None
    assert second.counts.held == 4
    assert f"run {run_id_of(first)} is under way; its cases are left to it" in capsys.readouterr().err
    third = begin(job(config))
    assert third.run is None
    assert third.counts is not None
    assert third.counts.held == NUM_CASES


def test_another_model_is_not_kept_from_its_cases(config: Config, workspace: Store) -> None:
    begin(job(config))
    in_chinese = config.annotate.engine.model_copy(update={"language": "zh"})
    annotate = config.annotate.model_copy(update={"engine": in_chinese})
    other = begin(job(config.model_copy(update={"annotate": annotate})))
    assert len(cases_of(workspace, other)) == NUM_CASES


def test_an_interrupted_run_is_gone_on_with_less_what_others_drafted_meanwhile(
    config: Config, workspace: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = job(config)
    first = begin(wish)
    assert first.claim is not None
    with first.claim:
        drafts(workspace, wish, run_id_of(first), range(2))
    narrower = begin(job(config, Selection(limit=3)))
    assert cases_of(workspace, narrower) == ["case-2", "case-3", "case-4"]
    drafts(workspace, wish, run_id_of(narrower), range(2, 5))

    again = begin(wish)

    assert again.resumed
    assert run_id_of(again) == run_id_of(first)
    assert cases_of(workspace, again) == [f"case-{number}" for number in (0, 1, 5, 6, 7, 8, 9)]
    assert "3 cases less: other runs drafted them" in capsys.readouterr().err
    units = [read_part(workspace, file)["unit"] for file in _files(workspace, again)]
    assert units[0].to_pylist() == [0, 1, 2, 3]


def test_a_dry_run_counts_and_writes_nothing(config: Config, workspace: Store) -> None:
    wish = job(config)
    drafts(workspace, wish, "before", range(2))
    before = sorted(info.uri for info in workspace.list_objects())
    plan = dry_run(wish)
    assert sorted(info.uri for info in workspace.list_objects()) == before
    assert (plan.cases["cases"], plan.cases["drafted"], plan.cases["selected"]) == (10, 2, 8)
    assert (plan.units, plan.continues) == (3, None)
    assert (plan.model_actors, plan.holding) == ("1 to 4", "1 CPU, 1 accelerator")
    assert plan.estimated_seconds is None
    begun = begin(wish)
    assert begun.claim is not None
    with begun.claim:
        pass
    assert dry_run(wish).continues == run_id_of(begun)


def test_a_workspace_without_cases_says_what_to_do(config: Config) -> None:
    for look in (begin, dry_run):
        with pytest.raises(NothingToDoError, match="run `sonoloop index` first"):
            look(job(config))


def _files(workspace: Store, begun: Begun) -> tuple[SortedFile, ...]:
    return InputParts(workspace, run_id_of(begun)).files
