"""The demo's own parts: its configuration, the scripted reader, the comparison against the truth."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest

from sonoloop.jobs.demo import loop, recipe
from sonoloop.jobs.demo.closing import DemoSummary, show_closing
from sonoloop.jobs.demo.reader import ERROR_RATE, correct
from sonoloop.jobs.demo.recipe import _configure, _phantoms
from sonoloop.jobs.demo.size import DemoConfig
from sonoloop.model.metrics import Described
from sonoloop.platform.lexicon import LesionBox, LiverEntities
from sonoloop.platform.stack import StackInfo

TRUTH = Described(
    "The liver parenchyma is normal. One hypoechoic focal lesion with well-defined margin.",
    "Hypoechoic focal liver lesion.",
    LiverEntities(
        organ="liver",
        parenchyma="normal",
        lesion="present",
        echogenicity="hypoechoic",
        margin="well-defined",
        posterior_features="none",
    ),
    (LesionBox(image_index=0, x=0.2, y=0.2, width=0.3, height=0.3),),
)


def test_the_configuration_that_the_demo_writes_is_read_back(tmp_path: Path) -> None:
    info = StackInfo(
        folder=tmp_path,
        env_file=tmp_path / "env",
        s3_endpoint="http://127.0.0.1:1",
        buckets=("archive", "workspace"),
        image_bucket="workspace",
        labelstudio_url="http://127.0.0.1:2",
    )
    size = DemoConfig()
    config, truth = _configure(info, tmp_path, size)
    assert (config.finetune.epochs, config.finetune.learning_rate) == (size.epochs, size.learning_rate)
    assert config.workspace.startswith("s3://workspace/")
    assert config.archive.startswith("s3://archive/")
    assert not truth.uri.startswith((config.archive, config.workspace))


def test_the_demo_announces_as_many_steps_as_it_takes() -> None:
    titles = [
        line
        for module in (recipe, loop)
        for line in inspect.getsource(module).splitlines()
        if "steps.step(" in line
    ]
    assert len(titles) == recipe.NUM_STEPS


def test_the_demo_archive_holds_the_known_and_the_new_kind_on_different_machines() -> None:
    groups = _phantoms(DemoConfig()).groups
    assert {group.organ for group in groups if group.scanner == "A"} == {"breast", "thyroid"}
    assert {group.organ for group in groups if group.scanner == "B"} == {"liver", "kidney"}


def test_the_reader_keeps_a_draft_that_says_what_is_true_in_other_words() -> None:
    draft = replace(
        TRUTH,
        findings="Normal liver parenchyma. A lesion is seen; it is hypoechoic and well-defined.",
        boxes=(LesionBox(image_index=0, x=0.21, y=0.2, width=0.3, height=0.3),),
    )
    page = correct(draft, TRUTH, seed="keeps")
    assert (page.findings, page.impression, page.boxes) == (draft.findings, draft.impression, draft.boxes)


@pytest.mark.parametrize("findings", ["", "Normal parenchyma. A hyperechoic well-defined lesion."])
def test_the_reader_rewrites_a_section_that_is_empty_or_wrong(findings: str) -> None:
    assert correct(replace(TRUTH, findings=findings), TRUTH, seed="x").findings == TRUTH.findings


def test_the_reader_redraws_a_box_that_is_off_and_removes_one_that_is_not_there() -> None:
    off = LesionBox(image_index=0, x=0.6, y=0.6, width=0.2, height=0.2)
    assert correct(replace(TRUTH, boxes=(off,)), TRUTH, seed="x").boxes == TRUTH.boxes
    assert correct(TRUTH, replace(TRUTH, boxes=()), seed="x").boxes == ()


def test_the_reader_errs_as_often_as_stated_and_the_same_way_each_time() -> None:
    pages = [correct(TRUTH, TRUTH, seed=str(number)) for number in range(2000)]
    wrong = [page for page in pages if page.entities != TRUTH.entities]
    assert len(wrong) / len(pages) == pytest.approx(ERROR_RATE, abs=0.012)
    assert pages[:50] == [correct(TRUTH, TRUTH, seed=str(number)) for number in range(50)]


@pytest.mark.parametrize("promoted", [True, False])
def test_the_end_offers_to_undo_a_promotion_only_where_there_was_one(
    promoted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edits = {"round 0": 4.0, "round 1": 3.5}
    summary = DemoSummary(cases=2, reviewed=1, promoted=promoted, rounds=[], edits_per_case=edits, seconds={})
    show_closing(summary, StackInfo(folder=tmp_path, env_file=tmp_path / "env"), tmp_path)
    said = capsys.readouterr().err
    assert ("--rollback" in said) == promoted
    assert ("nothing was promoted" in said) != promoted
