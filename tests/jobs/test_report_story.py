"""The whole loop on one page: the figures are the workspace's, the page is one file and bounded."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.jobs.whole_loop import NUM_CASES, VERSIONS, fill

from sonoloop.jobs.config import Config
from sonoloop.jobs.report import run_report
from sonoloop.jobs.reporting import gallery, story_plots
from sonoloop.jobs.reporting.drawing import style
from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.gallery_page import words_changed
from sonoloop.jobs.reporting.story import Story
from sonoloop.jobs.reporting.story_sections import running_sections
from sonoloop.jobs.status import run_status


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Config:
    for room in ("workspace", "archive"):
        (tmp_path_factory.getbasetemp() / f"story-{room}").mkdir()
    base = tmp_path_factory.getbasetemp()
    config = Config(
        workspace=str(base / "story-workspace"), archive=str(base / "story-archive"), drift={"min_values": 10}
    )
    fill(config)
    return config


@pytest.fixture(scope="module")
def made(filled: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, str]:
    report, place = run_report(filled, out=tmp_path_factory.mktemp("page") / "report.html")
    return report, Path(place).read_text()


@pytest.fixture
def story(made: tuple[Report, str]) -> Story:
    assert made[0].story is not None
    return made[0].story


@pytest.fixture
def page(made: tuple[Report, str]) -> str:
    return made[1]


def test_the_funnel_counts_every_room(story: Story) -> None:
    num_rejected = NUM_CASES // 20
    assert story.funnel.model_dump() == {
        "objects": 5 * NUM_CASES + 60,
        "instances": 5 * NUM_CASES,
        "cases": NUM_CASES,
        "drafted_cases": NUM_CASES - num_rejected,
        "drafts": NUM_CASES - num_rejected,
        "tasks": NUM_CASES - num_rejected,
        "reviewed_cases": NUM_CASES - num_rejected,
        "training_cases": 64,
        "models": 3,
    }
    assert story.objects_rejected == {
        "not-ultrasound": 30,
        "truncated": 20,
        "phi-suspected": 12,
        "document": 10,
    }
    assert story.cases_rejected == {"invalid-output": num_rejected}


def test_models_stand_in_the_order_they_were_made_with_intervals_and_verdicts(story: Story) -> None:
    assert [one.model_version for one in story.measured] == list(VERSIONS)
    first, second, _ = (one.entity_macro_f1 for one in story.measured)
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.value < first.high < second.value
    assert [one.promoted for one in story.verdicts] == [True, False]
    assert "gain" in story.verdicts[1].failed
    assert [len(one.experts) for one in story.trainings] == [3, 3]
    assert [one.cost for one in story.spent] == [1.25, 1.25]


def test_status_shows_the_last_decisions_newest_first(filled: Config) -> None:
    newest, oldest = run_status(filled).decisions
    assert f"{VERSIONS[2]} not promoted: " in newest
    assert f"{VERSIONS[1]} promoted: " in oldest


class _Asks(HTMLParser):
    """Addresses that a page names, ids that stand twice, and tags that are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img", "link", "input"):
            self.open.append(tag)
        self._attributes(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.anchors += [value or "" for name, value in attrs if tag == "section" and name == "id"]


def test_the_page_is_whole_and_names_no_address_but_its_own(page: str) -> None:
    found = _Asks()
    found.feed(page)
    assert found.open == []
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in found.addresses)
    assert {address[1:] for address in found.addresses if address.startswith("#")} >= set(found.anchors)
    assert re.findall(r"url\((?!#)", page) == []
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_every_part_of_the_story_has_its_plot_in_the_pages_own_colours(page: str) -> None:
    for title in (
        "Through the funnel", "What was rejected", "round by round", "What the gate decided",
        "used the experts", "Is 0.9 really 0.9", "How far readers agree", "What drafting took", "What moved",
    ):  # fmt: skip
        assert title in page, title
    plots = re.findall(r'<div class="wide plot">.*?</div>', page, re.DOTALL)
    assert len(plots) >= 9
    for plot in plots:
        assert "var(--" in plot
        assert not re.search(r"(?:fill|stroke): ?#(?:000000|ffffff)", plot)


def test_a_reason_of_both_kinds_has_a_bar_for_each(story: Story) -> None:
    both = story.model_copy(update={"objects_rejected": {"storage": 40}, "cases_rejected": {"storage": 5}})
    with style():
        drawn = story_plots.rejections(both)
    assert drawn is not None
    assert drawn.count("storage</text>") == 2


def test_costs_in_two_currencies_are_not_one_sum(story: Story) -> None:
    (run, *_) = story.spent
    spent = tuple(run.model_copy(update={"cost": 2.0, "currency": name}) for name in ("USD", "EUR", "USD"))
    cost, _ = running_sections(story.model_copy(update={"spent": spent}))
    assert cost.note.startswith("4.00 USD and 2.00 EUR in all. ")


def test_the_gallery_is_bounded_and_shows_what_changed(
    made: tuple[Report, str], filled: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = made[1]
    assert page.count("<article>") == gallery.MOST_CASES
    pictures = re.findall(r"data:image/jpeg;base64,[\w+/=]+", page)
    assert 6 < len(pictures) <= gallery.MOST_CASES * gallery.PICTURES_PER_CASE
    assert sum(map(len, pictures)) <= gallery.MOST_BYTES
    assert 'class="drafted"' in page
    assert 'class="reviewed"' in page
    _, bare = run_report(filled, out=tmp_path / "bare.html", with_pictures=False)
    assert "data:image" not in Path(bare).read_text()
    assert Path(bare).read_text().count("<article>") == gallery.MOST_CASES
    monkeypatch.setattr(gallery, "MOST_BYTES", len(pictures[0]) + 10)
    _, small = run_report(filled, out=tmp_path / "small.html")
    assert 1 <= Path(small).read_text().count("data:image/jpeg") <= 2


def test_a_picture_that_is_gone_leaves_the_rest(filled: Config, tmp_path: Path) -> None:
    copy = shutil.copytree(filled.workspace, tmp_path / "copy")
    shutil.rmtree(copy / "images")
    _, place = run_report(filled.model_copy(update={"workspace": str(copy)}), out=tmp_path / "report.html")
    assert Path(place).read_text().count("<article>") == gallery.MOST_CASES


def test_words_are_marked_where_the_reader_changed_them_and_marks_are_no_way_in() -> None:
    assert words_changed("the liver is coarse", "the liver is normal") == (
        "the liver is <del>coarse</del> <ins>normal</ins>"
    )
    assert words_changed("a cyst", "a small cyst") == "a <ins>small</ins> cyst"
    assert "<script>" not in words_changed("a", "<script>x</script>")
