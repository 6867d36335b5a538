"""The page a clinician works on, in a real browser, with images that really come out of S3."""

from __future__ import annotations

import io
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from sonoloop.platform.labelstudio.annotations import TaskReviews, reviews_of
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import TaskData, prediction_of
from sonoloop.platform.labelstudio.storage import ImageStorage
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.lexicon import Entities, LesionBox, entities_json, parse_entities
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.stack.s3 import allow_origins, load_or_create_keys

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

MakeProject = Callable[..., int]

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
THYROID = parse_entities(
    '{"organ":"thyroid","lesion":"present","composition":"spongiform","echogenicity":"hypoechoic",'
    '"shape":"wider-than-tall","margin":"smooth","echogenic_foci":"macrocalcifications"}'
)
BREAST = parse_entities(
    '{"organ":"breast","lesion":"present","shape":"oval","orientation":"parallel","margin":"circumscribed",'
    '"echo_pattern":"hypoechoic","posterior_features":"enhancement","calcifications":"absent","bi_rads":"3",'
    '"laterality":"left","quadrant":"upper outer","clock_position":"2","nipple_distance_mm":35,"size_mm":12}'
)

pytestmark = [
    pytest.mark.labelstudio,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium; on Debian: apt-get update && apt-get install -y chromium"
    ),
]


def _png(width: int, height: int) -> bytes:
    speckle = np.random.default_rng(0).rayleigh(40, (height, width)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(speckle).save(stream, "PNG")
    return stream.getvalue()


def _draft(case_id: str, entities: Entities = THYROID) -> DraftRecord:
    return DraftRecord(
        case_id=case_id,
        run_id="run",
        model_version="nano/1",
        prompt_version="p1",
        config_hash="abc",
        status="draft",
        findings="A spongiform nodule.\nIt is smooth.",
        impression="Benign nodule.",
        entities=entities_json(entities),
        boxes=(LesionBox(image_index=1, x=0.3, y=0.3, width=0.2, height=0.2),),
        confidence=0.8,
    )


@pytest.fixture
def door(stack_labelstudio) -> Iterator[LabelStudioDoor]:
    config = LabelStudioConfig(url=stack_labelstudio.url)
    with LabelStudioDoor(config, SecretStr(stack_labelstudio.api_key)) as opened:
        yield opened


@pytest.fixture
def make_project(door, stack_s3, stack_labelstudio) -> MakeProject:
    """Makes a project with two cases of two images each, shown from S3 by presigned URL."""
    bucket, keys = stack_s3.bucket(), load_or_create_keys(stack_s3.folder)
    allow_origins(stack_s3.client, bucket, (stack_labelstudio.url,))
    for name, size in (("a", (640, 480)), ("b", (400, 600))):
        stack_s3.client.put_object(Bucket=bucket, Key=f"ws/images/{name}.png", Body=_png(*size))
    storage = ImageStorage(
        bucket, "ws/images/", stack_s3.endpoint, "us-east-1", SecretStr(keys.access_key), keys.secret_key
    )

    def make(
        entities: Entities | None, page: str | None = None, marks: Mapping[str, str] | None = None
    ) -> int:
        """Cases drafted with these entities, or not drafted; with ``marks`` or made before there were any."""
        page = page or build_page()
        project = door.ensure_project(f"page {secrets.token_hex(6)}", page)
        door.ensure_storage(project.id, storage)
        cases = []
        for case_id in ("case-1", "case-2"):
            images = [f"s3://{bucket}/ws/images/{name}.png" for name in "ab"]
            data = TaskData(case_id=case_id, images=images, organ_hint="not known", scanner="Phantom")
            if marks is not None:
                data["marks"] = dict(marks)
            draft = None if entities is None else _draft(case_id, entities)
            cases.append(CaseUpload(data, draft and prediction_of(draft, page=page)))
        upload(door, project.id, cases)
        if entities is not None:  # Label Studio refuses a version that no task has
            door.use_version(project.id, "nano/1@p1")
        return project.id

    return make


@pytest.fixture(scope="module")
def browser(stack_labelstudio) -> Iterator[BrowserContext]:
    """A browser of a small laptop, logged in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = chromium.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(240_000)  # both cores may be busy with other tests
        page = context.new_page()
        page.goto(f"{stack_labelstudio.url}/user/login/")
        page.fill("input[name=email]", stack_labelstudio.username)
        page.fill("input[name=password]", stack_labelstudio.password)
        page.click("button[type=submit]")
        page.wait_for_function("!location.pathname.includes('login')")
        page.close()
        yield context
        chromium.close()


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A fresh tab."""
    opened = browser.new_page()
    yield opened
    opened.close()


def _open_stream(page: Page, url: str, project_id: int, *, drafted: bool = True) -> None:
    """What "Label All Tasks" does: the next open task, prefilled where it was drafted."""
    page.goto(f"{url}/projects/{project_id}/data?labeling=1")
    page.get_by_test_id("bottombar-submit-button").wait_for()
    if drafted:
        page.get_by_test_id("htx-textbox-content").first.wait_for()


def _image_width(page: Page, timeout_s: float = 120) -> int:
    """Pixels of the shown image, which proves that it was loaded and decoded."""
    script = "[...document.querySelectorAll('.lsf-image img')].map(image => image.naturalWidth).find(Boolean)"
    return int(page.wait_for_function(script, timeout=1000 * timeout_s).json_value())


def _expect(read: Callable[[], object], expected: object) -> None:
    """A page shows what was done to it a little later, on a busy machine much later."""
    until = time.monotonic() + 300
    while (found := read()) != expected and time.monotonic() < until:
        time.sleep(0.05)
    assert found == expected


def _expect_chosen(page: Page, words: set[str]) -> None:
    chosen = (
        "[...document.querySelectorAll('.sl-row input:checked')].filter(i => i.offsetParent).map(i => i.name)"
    )
    _expect(lambda: set(page.evaluate(chosen)), words)


def _expect_texts(shown: Locator, texts: list[str]) -> None:
    _expect(shown.all_inner_texts, texts)


def _expect_titles(page: Page, titles: list[str]) -> None:
    _expect_texts(page.locator(".sl-row:visible .sl-title > h4"), titles)


def _choice(page: Page, field: str, word: str) -> Locator:
    row = page.locator(".sl-row:visible", has=page.locator(f".sl-title > h4:text-is('{field}')"))
    return row.locator("label", has_text=re.compile(f"^{re.escape(word)}"))


def _select(button: Locator, word: str) -> None:
    """Choose from a list and wait until it is gone: one that closes late takes the next one's focus."""
    from playwright.sync_api import expect

    button.click()
    button.page.get_by_test_id(f"select-option-{word}").click()
    expect(button.page.get_by_role("option")).to_have_count(0)


def _submit_by_key(page: Page, key: str = "Control+Enter") -> None:
    with page.expect_response(re.compile("/api/tasks/.*/annotations")) as saved:
        page.keyboard.press(key)
    assert saved.value.status == 201


def _pulled(door: LabelStudioDoor, project_id: int) -> TaskReviews:
    tasks = door.changes(project_id, None).tasks
    return reviews_of(tasks, SecretStr("a key of a test, long enough"))


def _draw_box(page: Page) -> None:
    """A lesion on the shown image, a quarter of its width and height."""
    page.keyboard.press("b")
    image = page.locator(".lsf-image img").first.bounding_box()
    assert image is not None
    left, top = image["x"] + 0.5 * image["width"], image["y"] + 0.5 * image["height"]
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 0.1 * image["width"], top + 0.1 * image["height"], steps=4)
    page.mouse.move(left + 0.25 * image["width"], top + 0.25 * image["height"], steps=4)
    page.mouse.up()


def _expect_fits(page: Page, last: Locator) -> None:
    """The form's last part is above the bar with the submit button."""

    def fits() -> bool:
        box, submit = last.bounding_box(), page.get_by_test_id("bottombar-submit-button").bounding_box()
        assert box is not None
        assert submit is not None
        return box["y"] + box["height"] <= submit["y"]

    _expect(fits, True)


def test_a_drafted_task_opens_with_image_texts_choices_and_marks_on_one_screen(
    page, make_project, stack_labelstudio
) -> None:
    marks = {"lesion": "? 41%", "thyroid_margin": "? 52%", "breast_margin": "? 3%"}
    from playwright.sync_api import expect

    _open_stream(page, stack_labelstudio.url, make_project(THYROID, marks=marks))
    assert _image_width(page) == 640
    texts = page.get_by_test_id("htx-textbox-content")
    expect(texts).to_have_text(["A spongiform nodule.\nIt is smooth.", "Benign nodule."], use_inner_text=True)
    _expect_chosen(page, set(THYROID.flat().values()))
    fields = ["Organ", "Lesion", "Composition", "Echogenicity", "Shape", "Margin", "Echogenic foci"]
    _expect_titles(page, ["No answer", *fields])
    _expect_texts(page.locator(".sl-mark:visible h4:visible"), ["? 41%", "? 52%"])
    marked = page.locator(".sl-row:visible", has=page.locator(".sl-mark h4:visible"))
    _expect_texts(marked.locator(".sl-title > h4"), ["Lesion", "Margin"])
    _expect_fits(page, page.locator(".sl-row:visible").last)
    assert page.locator(".lsf-image").bounding_box()["width"] >= 400


def test_choosing_another_organ_shows_its_fields_and_no_lesion_hides_the_descriptors(
    page, make_project, stack_labelstudio
) -> None:
    _open_stream(page, stack_labelstudio.url, make_project(THYROID))
    assert page.locator(".sl-mark h4:visible").count() == 0  # a task made before there were marks
    _choice(page, "Organ", "liver").click()
    page.locator(".sl-row:visible h4", has_text="Parenchyma").wait_for()
    assert page.locator(".sl-row:visible h4", has_text="Composition").count() == 0
    page.keyboard.press("6")
    page.locator(".sl-row:visible h4", has_text="Echogenicity").wait_for(state="hidden")
    _expect_titles(page, ["No answer", "Organ", "Parenchyma", "Lesion"])
    page.keyboard.press("q")  # a key that Label Studio would have given to a field of the breast
    _expect_chosen(page, {"liver", "absent"})


def test_an_edited_task_that_is_submitted_by_key_comes_back_as_a_review_of_its_draft(
    page, door, make_project, stack_labelstudio
) -> None:
    project_id = make_project(THYROID)
    _open_stream(page, stack_labelstudio.url, project_id)
    assert _image_width(page) == 640
    page.get_by_test_id("htx-textbox-edit-button").first.click()
    page.locator(".sl-form textarea:visible").first.fill("A solid nodule.\nIt is smooth.")
    _choice(page, "Echogenic foci", "punctate echogenic foci").click()
    _draw_box(page)
    page.keyboard.press("Control+ArrowRight")
    page.wait_for_function(
        "[...document.querySelectorAll('.lsf-image img')].some(image => image.naturalWidth === 400)"
    )
    _submit_by_key(page)

    (task,) = door.changes(project_id, None).tasks
    assert task.annotations[0].parent_prediction == task.predictions[0].id
    (review,) = _pulled(door, project_id).reviews
    assert review.model_version == "nano/1"
    assert review.escape is None
    assert review.findings == "A solid nodule.\nIt is smooth."
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat() == {**THYROID.flat(), "echogenic_foci": "punctate echogenic foci"}
    changed = {name for name, origin in review.origins.items() if origin != "prediction"}
    assert changed == {"findings", "echogenic_foci", "boxes"}
    assert review.origins["findings"] == "prediction-changed"
    drafted, drawn = sorted(review.boxes, key=lambda box: -box.image_index)
    assert drafted.model_dump() == pytest.approx(
        {"image_index": 1, "x": 0.3, "y": 0.3, "width": 0.2, "height": 0.2}
    )
    assert drawn.image_index == 0
    assert drawn.width == pytest.approx(0.25, abs=0.01)
    assert drawn.height == pytest.approx(0.25, abs=0.01)
    assert review.lead_time_s is not None
    assert review.lead_time_s > 0


def test_side_place_and_size_fit_below_a_breast_lesion_and_come_back_as_corrected(
    page, door, make_project, stack_labelstudio
) -> None:
    project_id = make_project(BREAST, marks={"breast_size_mm": "? 30%"})
    _open_stream(page, stack_labelstudio.url, project_id)
    place = page.locator(".sl-place:visible")
    titles = place.locator(".sl-title > h4").all_inner_texts()
    assert titles == ["Side", "Quadrant", "O'clock", "From nipple, mm", "Size, mm"]
    _expect_texts(place.locator(".sl-mark h4:visible"), ["? 30%"])
    _expect_texts(place.locator("button"), ["left", "upper outer", "2"])
    _expect_fits(page, place)

    _select(place.locator("button").nth(0), "left")  # the chosen one again: takes it away
    _select(place.locator("button").nth(2), "11")
    page.locator("input[name=breast_nipple_distance_mm]").fill("")
    page.locator("input[name=breast_size_mm]").fill("13")
    with page.expect_response(re.compile("/api/tasks/.*/annotations")) as saved:
        page.get_by_test_id("bottombar-submit-button").click()
    assert saved.value.status == 201

    found = _pulled(door, project_id)
    assert not found.problems
    (review,) = found.reviews
    entities = review.parsed_entities()
    assert entities is not None
    expected = {**BREAST.flat(), "clock_position": "11", "size_mm": "13"}
    del expected["laterality"], expected["nipple_distance_mm"]
    assert entities.flat() == expected
    changed = {name: origin for name, origin in review.origins.items() if origin != "prediction"}
    assert changed == {
        "laterality": "missing",
        "clock_position": "prediction-changed",
        "nipple_distance_mm": "prediction-changed",
        "size_mm": "prediction-changed",
    }


def test_an_escape_is_two_keys_with_or_without_a_draft_and_no_problem(
    page, door, make_project, stack_labelstudio
) -> None:
    drafted, empty = make_project(BREAST), make_project(None)
    _open_stream(page, stack_labelstudio.url, drafted)
    page.keyboard.press("p")
    _submit_by_key(page, "F8")
    _open_stream(page, stack_labelstudio.url, empty, drafted=False)
    assert _image_width(page) == 640
    page.keyboard.press("i")
    _submit_by_key(page)

    (review,) = _pulled(door, drafted).reviews
    assert review.escape == "patient-data-visible"
    assert review.parsed_entities() == BREAST
    found = _pulled(door, empty)
    assert not found.problems
    (review,) = found.reviews
    assert review.escape == "bad-image"
    assert (review.entities, review.findings, review.boxes) == (None, "", ())


def test_a_chinese_page_of_one_organ_shows_chinese_and_stores_the_words_of_the_lexicon(
    page, door, make_project, stack_labelstudio
) -> None:
    project_id = make_project(BREAST, build_page("breast", "zh"), {"breast_bi_rads": "? 38%"})
    _open_stream(page, stack_labelstudio.url, project_id)
    words = {"有", "椭圆形", "平行", "光整", "低回声", "回声增强", "无钙化"}
    _expect_chosen(page, {*words, "3 类"})
    shown = ["无法作答", "病灶", "形状", "方位", "边缘", "内部回声", "后方回声", "钙化", "BI-RADS"]
    _expect_titles(page, shown)
    _expect_texts(page.locator(".sl-mark h4:visible"), ["? 38%"])
    _expect_texts(page.locator(".sl-place:visible button"), ["左侧", "外上象限", "2 点"])
    _expect_fits(page, page.locator(".sl-place:visible"))
    page.keyboard.press("4")
    _expect_chosen(page, {*words, "4A 类"})
    _submit_by_key(page, "F8")

    found = _pulled(door, project_id)
    assert not found.problems
    (review,) = found.reviews
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat() == {**BREAST.flat(), "bi_rads": "4A"}
    assert {name for name, origin in review.origins.items() if origin != "prediction"} == {"bi_rads"}
    assert len(review.boxes) == 1


def test_on_a_page_of_one_organ_a_task_without_a_draft_has_the_organ_and_takes_what_is_typed(
    page, door, make_project, stack_labelstudio
) -> None:
    project_id = make_project(None, build_page("liver", "zh"))
    _open_stream(page, stack_labelstudio.url, project_id, drafted=False)
    page.locator(".sl-form textarea:visible").first.fill("肝脏大小正常。")
    _choice(page, "病灶", "无").click()
    _submit_by_key(page)
    found = _pulled(door, project_id)
    assert not found.problems
    (review,) = found.reviews
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat() == {"organ": "liver", "parenchyma": "not assessed", "lesion": "absent"}
    assert review.findings == "肝脏大小正常。"
