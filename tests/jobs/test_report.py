"""The report says what a hand computes from a dozen readings, and its page asks nobody for anything."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from said import LEFT_BOX, START, entities, give_tasks, said, write_said

from sonoloop.jobs.config import Config
from sonoloop.jobs.report import report, run_report
from sonoloop.jobs.reporting.figures import make_report
from sonoloop.jobs.reporting.page import page_of
from sonoloop.model.prompts import PROMPT_VERSION, format_report
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.lexicon import LesionBox
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store

COARSE = entities(parenchyma="coarse")
NORMAL = entities(parenchyma="normal")
UNTOUCHED = {"findings": "prediction", "organ": "prediction", "parenchyma": "prediction"}
EDITED = {"findings": "prediction-changed", "organ": "prediction", "parenchyma": "manual", "boxes": "missing"}
FROM_DRAFT: dict[str, Any] = {"model_version": "m/1", "project": "p"}


@pytest.fixture
def workspace(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def draft(workspace: Store, *case_ids: str, text: str = COARSE, sure: float = 0.85) -> None:
    rows = [
        DraftRecord(
            case_id=case_id,
            run_id="r",
            model_version="m/1",
            prompt_version=PROMPT_VERSION,
            config_hash="h",
            status="draft",
            findings="the liver is coarse",
            impression="normal",
            entities=text,
            value_probabilities={"parenchyma": sure},
        )
        for case_id in case_ids
    ]
    workspace.write_table(DraftRecord.table(rows), "drafts", "r", f"{'-'.join(case_ids)}.parquet")


def test_the_help_of_a_version_is_measured_over_what_started_from_its_drafts(workspace: Store) -> None:
    draft(workspace, "a", "b", "c")
    write_said(
        workspace,
        said("a", origins=UNTOUCHED, lead_time_s=10, findings="the liver is coarse", **FROM_DRAFT),
        said("b", origins=EDITED, lead_time_s=40, **FROM_DRAFT),
        said("c", origins=EDITED, lead_time_s=99, escape="cannot-judge", **FROM_DRAFT),
        said("d", origins={"findings": "manual"}, lead_time_s=1),
        said("b", "eve", 9, adjudicates=True, model_version="reader ann", project="court"),
    )
    (version,) = make_report(workspace, prompt_version=PROMPT_VERSION).help
    total = version.total
    assert (total.model_version, total.num_readings) == ("m/1", 2)
    assert total.untouched is not None
    assert total.untouched.value == pytest.approx((1 + 1 / 3) / 2)
    assert total.edits is not None
    assert total.edits.value == 1.0
    assert total.whole is not None
    assert total.whole.value == 0.5
    assert total.seconds is not None
    assert total.seconds.value == 25
    assert total.text_distance is not None
    num_words = len(format_report("the liver is coarse", "normal").split())
    assert total.text_distance.value == pytest.approx((0 + 1 / num_words) / 2)  # one word, in one of two
    assert [(one.organ, one.num_readings) for one in version.organs] == [("liver", 2)]


def test_what_a_reader_emptied_is_an_edit_though_nothing_of_it_is_left(workspace: Store) -> None:
    draft(workspace, "a", "b")
    emptied = {**UNTOUCHED, "impression": "missing", "boxes": "missing"}  # no box was drafted
    write_said(
        workspace,
        said("a", origins=emptied, entities=COARSE, **FROM_DRAFT),
        said("b", origins=emptied, entities=entities("kidney"), **FROM_DRAFT),
    )
    (version,) = make_report(workspace, prompt_version=PROMPT_VERSION).help
    assert version.total.edits is not None
    assert version.total.edits.value == 1
    assert version.total.untouched is not None
    assert version.total.untouched.value == 0.75


def test_what_was_drafted_at_085_is_held_against_what_readers_kept(workspace: Store) -> None:
    draft(workspace, *"abcd")
    draft(workspace, "e", sure=0.35)
    kept = dict(zip("abcde", (COARSE, COARSE, COARSE, NORMAL, NORMAL), strict=True))
    write_said(workspace, *(said(name, entities=text, **FROM_DRAFT) for name, text in kept.items()))
    (version,) = make_report(workspace, prompt_version=PROMPT_VERSION).help
    (as_decoded,) = version.confidence
    found = [(one.low, round(one.mean_probability, 2), one.kept.value) for one in as_decoded.bins]
    assert found == [(0.3, 0.35, 0.0), (0.8, 0.85, 0.75)]
    assert as_decoded.calibration_error == pytest.approx((4 * 0.1 + 0.35) / 5)


def test_controls_are_held_against_drafts_and_a_wrong_draft_draws_readers_along(workspace: Store) -> None:
    give_tasks(workspace, "control", "c", "d")
    draft(workspace, *"abcd")  # coarse, which is wrong everywhere
    truth = {"adjudicates": True, "entities": NORMAL, "project": "court"}
    write_said(workspace, *(said(name, "eve", 9, **truth) for name in "abcd"))
    write_said(
        workspace,
        said("a", entities=COARSE, lead_time_s=10, **FROM_DRAFT),
        said("b", entities=NORMAL, lead_time_s=20, **FROM_DRAFT),
        said("c", entities=NORMAL, lead_time_s=60, project="p"),
        said("d", entities=NORMAL, lead_time_s=80, project="p"),
    )
    found = make_report(workspace, prompt_version=PROMPT_VERSION).comparison
    assert found.model_version == "m/1"
    assert _values(found.seconds) == (15, 70, -55)
    assert _values(found.right) == (
        pytest.approx(5 / 6),
        1,
        pytest.approx(-1 / 6),
    )  # of organ, tissue, lesion
    assert _values(found.followed) == (0.5, 0, 0.5)


def _values(contrast: Any) -> tuple[float, float, float]:
    return contrast.with_drafts.value, contrast.without.value, contrast.difference.value


def test_agreement_is_measured_over_cases_read_twice_and_adjudications_are_no_reading(
    workspace: Store,
) -> None:
    box = LesionBox(image_index=0, x=0.2, y=0.1, width=0.2, height=0.2)
    for name, other in zip("abcd", (NORMAL, NORMAL, COARSE, COARSE), strict=True):
        ann = said(name, "ann", entities=NORMAL if name != "d" else COARSE, boxes=(LEFT_BOX,))
        write_said(workspace, ann, said(name, "bob", 1, entities=other, boxes=(box,)))
    write_said(workspace, said("d", "eve", 5, adjudicates=True), said("e", "ann"))
    found = make_report(workspace, prompt_version=PROMPT_VERSION).agreement
    assert (found.num_cases, found.num_disputed) == (4, 1)
    by_field = {one.field: one for one in found.fields}
    assert set(by_field) == {"organ", "liver.lesion", "liver.parenchyma"}
    parenchyma = by_field["liver.parenchyma"]
    assert parenchyma.agreement.value == 0.75
    # 5 of 8 normal: chance (25 + 9) / 64; readers apart: 3/4 * 2/4 + 1/4 * 2/4
    assert parenchyma.fleiss_kappa is not None
    assert parenchyma.fleiss_kappa.value == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))
    assert parenchyma.fleiss_kappa.n == 4
    assert by_field["organ"].fleiss_kappa is None
    (pair,) = [one for one in found.pairs if one.field == "liver.parenchyma"]
    assert (pair.readers, pair.num_cases) == (("ann", "bob"), 4)
    assert pair.cohen_kappa is not None
    assert pair.cohen_kappa.value == pytest.approx(0.5)
    assert found.box_iou is not None
    assert found.box_iou.value == pytest.approx(1 / 3)


def test_sizes_that_two_readers_gave_are_compared_and_a_size_left_out_is_none(workspace: Store) -> None:
    for name, sizes in zip("abc", ((10, 12), (20, 26), (30, None)), strict=True):
        for hours, (reader, size_mm) in enumerate(zip(("ann", "bob"), sizes, strict=True)):
            text = entities(lesion="present", size_mm=size_mm)
            write_said(workspace, said(name, reader, hours, entities=text))
    found = make_report(workspace, prompt_version=PROMPT_VERSION).agreement.numbers
    (field,), (pair,) = found.fields, found.pairs
    assert (field.field, field.figures.absolute_difference.n) == ("liver.size_mm", 2)
    assert field.figures.absolute_difference.value == 4
    assert (pair.readers, pair.figures.bias.value) == (("ann", "bob"), 4)


def test_readings_that_took_no_time_are_counted_by_reader_and_their_times_left_out(workspace: Store) -> None:
    times = {"a": 0.2, "b": 0.3, "c": 30.0, "d": None}
    write_said(workspace, *(said(name, "ann", lead_time_s=at, **FROM_DRAFT) for name, at in times.items()))
    write_said(workspace, *(said(name, "bob", 1, lead_time_s=50.0, **FROM_DRAFT) for name in "ab"))
    write_said(workspace, said("e", "bob", 1, lead_time_s=0.4, escape="cannot-judge", **FROM_DRAFT))
    found = make_report(workspace, prompt_version=PROMPT_VERSION)
    (ann,) = found.hasty
    assert (ann.reader, ann.num_hasty, ann.share.n) == ("ann", 2, 3)
    assert ann.share.value == pytest.approx(2 / 3)
    (version,) = found.help
    assert version.total.seconds is not None
    assert (version.total.seconds.value, version.total.seconds.n) == (50.0, 3)
    assert version.total.num_readings == 6
    assert "submits the tasks that follow unseen" in page_of(found)


def test_a_reader_is_measured_on_gold_by_what_was_known_before(workspace: Store) -> None:
    give_tasks(workspace, "draft", *"abc")
    write_said(workspace, *(said(name, "ann", 0, entities=NORMAL, project="p") for name in "ab"))
    give_tasks(workspace, "gold", *"abc", at=START + timedelta(hours=2))
    give_tasks(workspace, "gold", *"abc", at=START + timedelta(hours=20))  # another prediction came
    bob = {"created_at": START + timedelta(hours=5), "project": "p"}
    write_said(workspace, said("a", "bob", 5, entities=NORMAL, **bob))
    write_said(workspace, said("b", "bob", 5, entities=entities("kidney"), **bob))
    write_said(workspace, said("c", "bob", 5, entities=NORMAL, **bob))  # nobody knew
    write_said(workspace, said("c", "eve", 7, entities=NORMAL, project="p"))  # nor did bob, beforehand
    rows = {(one.reader, one.field): one.right for one in make_report(workspace, prompt_version="p").readers}
    assert (rows["bob", None].value, rows["bob", None].n) == (0.5, 2)
    assert (rows["bob", "liver.parenchyma"].value, rows["bob", "organ"].value) == (0.5, 0.5)
    assert {reader for reader, _ in rows} == {"bob"}


def test_a_place_that_the_reader_left_out_is_no_error(workspace: Store) -> None:
    truth = entities(lesion="present", segment="II")
    write_said(workspace, said("a", "eve", 3, adjudicates=True, entities=truth))
    write_said(workspace, said("a", "ann", entities=entities(lesion="present")))
    write_said(workspace, said("b", "eve", 3, adjudicates=True, entities=truth))
    write_said(workspace, said("b", "bob", entities=entities(lesion="present", segment="V")))
    rows = {(one.reader, one.field): one.right for one in make_report(workspace, prompt_version="p").readers}
    assert rows["ann", None].value == 1
    assert rows["bob", "liver.segment"].value == 0


def test_the_page_is_one_file_that_asks_nobody_for_anything(workspace: Store) -> None:
    _everything(workspace)
    page = page_of(make_report(workspace, prompt_version=PROMPT_VERSION))
    assert page.count("<svg") == 6
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)\w*:?//""", page) == []
    assert "default-src 'none'" in page
    assert "the liver" not in page
    assert "m/1" in page


def test_what_a_page_has_nothing_of_yet_stands_in_a_list_at_its_end(workspace: Store) -> None:
    draft(workspace, "a")
    write_said(workspace, said("a", origins=UNTOUCHED, lead_time_s=20, **FROM_DRAFT))
    body, _, closing = page_of(make_report(workspace, prompt_version=PROMPT_VERSION)).partition("Nothing yet")
    assert "by 1 reader," in body
    assert "Pairs of readers" not in body
    assert "<li>Pairs of readers</li>" in closing
    assert "(control tasks)</li>" in closing


def test_an_empty_report_is_refused_and_a_page_goes_where_it_is_wanted(tmp_path: Path) -> None:
    for room in ("workspace", "archive"):
        (tmp_path / room).mkdir()
    config = Config(workspace=str(tmp_path / "workspace"), archive=str(tmp_path / "archive"))
    with pytest.raises(NothingToDoError, match="nobody has read a case"):
        run_report(config)
    _everything(config.open_workspace())
    _, place = run_report(config)
    assert Path(place).is_relative_to(tmp_path / "workspace" / "reports")
    _, place = run_report(config, out=tmp_path / "report.html")
    assert "<h1>" in Path(place).read_text()
    with pytest.raises(ConfigError, match="folder does not exist"):
        run_report(config, out=tmp_path / "nowhere" / "report.html")


def test_the_tables_are_printed_or_the_figures_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for room in ("workspace", "archive"):
        (tmp_path / room).mkdir()
    _everything(Store(str(tmp_path / "workspace")))
    toml = tmp_path / "sonoloop.toml"
    toml.write_text(f'workspace = "{tmp_path}/workspace"\narchive = "{tmp_path}/archive"\n')
    report(config=str(toml))
    printed = capsys.readouterr().out
    assert "Krippendorff" in printed
    assert "m/1" in printed
    report(config=str(toml), json=True)
    assert '"followed"' in capsys.readouterr().out


def _everything(workspace: Store) -> None:
    """Something for every part of the report."""
    give_tasks(workspace, "control", "c")
    draft(workspace, *"abc")
    for name, text in zip("abc", (NORMAL, COARSE, NORMAL), strict=True):
        kind = {"project": "p"} if name == "c" else FROM_DRAFT
        write_said(
            workspace,
            said(name, "ann", entities=text, origins=UNTOUCHED, lead_time_s=20, **kind),
            said(name, "bob", 1, entities=NORMAL, origins=EDITED, lead_time_s=30, **kind),
            said(name, "eve", 9, entities=NORMAL, adjudicates=True),
        )
