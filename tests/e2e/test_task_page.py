"""The page a clinician works on, in a real browser, with images that really come out of S3."""

from __future__ import annotations

import io
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr

from sonoloop.platform.labelstudio.annotations import reviews_of
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import prediction_of
from sonoloop.platform.labelstudio.storage import ImageStorage
from sonoloop.platform.labelstudio.upload import CaseUpload, upload
from sonoloop.platform.lexicon import Entities, LesionBox, entities_json, parse_entities
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.stack.s3 import allow_origins, load_or_create_keys

if TYPE_CHECKING:
    from playwright.sync_api import Page

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
def project_id(door, stack_s3, stack_labelstudio) -> int:
    """Two drafted thyroids."""
    return _project(door, stack_s3, stack_labelstudio, THYROID)


@pytest.fixture
def breast_project_id(door, stack_s3, stack_labelstudio) -> int:
    """Two drafted breasts, the lesion with side, place and size."""
    return _project(door, stack_s3, stack_labelstudio, BREAST)


def _project(door, stack_s3, stack_labelstudio, entities: Entities) -> int:
    """A project with two drafted cases of two images each, shown from S3 by presigned URL."""
    bucket, keys = stack_s3.bucket(), load_or_create_keys(stack_s3.folder)
    allow_origins(stack_s3.client, bucket, (stack_labelstudio.url,))
    for name, size in (("a", (640, 480)), ("b", (400, 600))):
        stack_s3.client.put_object(Bucket=bucket, Key=f"ws/images/{name}.png", Body=_png(*size))
    project = door.ensure_project(f"page {secrets.token_hex(6)}", build_page())
    storage = ImageStorage(
        bucket, "ws/images/", stack_s3.endpoint, "us-east-1", SecretStr(keys.access_key), keys.secret_key
    )
    door.ensure_storage(project.id, storage)
    images = [f"s3://{bucket}/ws/images/{name}.png" for name in "ab"]
    upload(
        door,
        project.id,
        [
            CaseUpload(
                {"case_id": case_id, "images": images, "organ_hint": "not known", "scanner": "Phantom"},
                prediction_of(_draft(case_id, entities)),
            )
            for case_id in ("case-1", "case-2")
        ],
    )
    door.use_version(project.id, "nano/1@p1")
    return project.id


@pytest.fixture
def page(stack_labelstudio) -> Iterator[Page]:
    """A browser of a small laptop, logged in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.goto(f"{stack_labelstudio.url}/user/login/")
        opened.fill("input[name=email]", stack_labelstudio.username)
        opened.fill("input[name=password]", stack_labelstudio.password)
        opened.click("button[type=submit]")
        opened.wait_for_function("!location.pathname.includes('login')")
        yield opened
        browser.close()


def _open_stream(page: Page, url: str, project_id: int) -> None:
    """What "Label All Tasks" does: the next open task, prefilled."""
    page.goto(f"{url}/projects/{project_id}/data?labeling=1")
    page.get_by_test_id("bottombar-submit-button").wait_for()
    page.get_by_test_id("htx-textbox-content").first.wait_for()


def _image_width(page: Page, timeout_s: float = 20) -> int:
    """Pixels of the shown image, which proves that it was loaded and decoded."""
    script = "[...document.querySelectorAll('.lsf-image img')].map(image => image.naturalWidth).find(Boolean)"
    return int(page.wait_for_function(script, timeout=1000 * timeout_s).json_value())


def _chosen(page: Page) -> set[str]:
    script = (
        "[...document.querySelectorAll('.sl-row input:checked')].filter(i => i.offsetParent).map(i => i.name)"
    )
    return set(page.evaluate(script))


def test_a_drafted_task_opens_with_image_texts_and_choices_on_one_screen(
    page, door, project_id, stack_labelstudio
) -> None:
    _open_stream(page, stack_labelstudio.url, project_id)
    assert _image_width(page) == 640
    texts = page.get_by_test_id("htx-textbox-content").all_inner_texts()
    assert texts == ["A spongiform nodule.\nIt is smooth.", "Benign nodule."]
    assert _chosen(page) == set(THYROID.flat().values())
    rows = page.locator(".sl-row:visible h4").all_inner_texts()
    assert rows == [
        "Organ",
        "Lesion",
        "Composition",
        "Echogenicity",
        "Shape",
        "Margin",
        "Echogenic foci",
    ]
    last = page.locator(".sl-row:visible").last.bounding_box()
    submit = page.get_by_test_id("bottombar-submit-button").bounding_box()
    assert last["y"] + last["height"] <= submit["y"], "the form does not fit on the screen"
    shown = page.locator(".lsf-image").bounding_box()
    assert shown["width"] >= 400


def test_choosing_another_organ_shows_its_fields_and_no_lesion_hides_the_descriptors(
    page, door, project_id, stack_labelstudio
) -> None:
    _open_stream(page, stack_labelstudio.url, project_id)
    page.locator(".sl-row label", has_text=re.compile("^liver")).click()
    page.locator(".sl-row:visible h4", has_text="Parenchyma").wait_for()
    assert page.locator(".sl-row:visible h4", has_text="Composition").count() == 0
    page.locator(".sl-row:visible label", has_text=re.compile("^absent")).first.click()
    page.locator(".sl-row:visible h4", has_text="Echogenicity").wait_for(state="hidden")
    assert page.locator(".sl-row:visible h4").all_inner_texts() == ["Organ", "Parenchyma", "Lesion"]


def test_an_edited_and_submitted_task_comes_back_as_a_review_of_its_draft(
    page, door, project_id, stack_labelstudio
) -> None:
    _open_stream(page, stack_labelstudio.url, project_id)
    assert _image_width(page) == 640
    page.get_by_test_id("htx-textbox-edit-button").first.click()
    page.locator(".sl-form textarea:visible").first.fill("A solid nodule.\nIt is smooth.")
    page.locator(".sl-row:visible label", has_text="punctate echogenic foci").click()
    with page.expect_response(re.compile("/api/tasks/.*/annotations")) as saved:
        page.get_by_test_id("bottombar-submit-button").click()
    assert saved.value.status == 201

    (task,) = door.changes(project_id, None).tasks
    assert task.annotations[0].parent_prediction == task.predictions[0].id
    (review,) = reviews_of([task], SecretStr("a key of a test, long enough")).reviews
    assert review.model_version == "nano/1"
    assert review.findings == "A solid nodule.\nIt is smooth."
    entities = review.parsed_entities()
    assert entities is not None
    assert entities.flat() == {**THYROID.flat(), "echogenic_foci": "punctate echogenic foci"}
    changed = {name for name, origin in review.origins.items() if origin != "prediction"}
    assert changed == {"findings", "echogenic_foci"}
    assert review.origins["findings"] == "prediction-changed"
    (box,) = review.boxes
    assert box.model_dump() == pytest.approx(
        {"image_index": 1, "x": 0.3, "y": 0.3, "width": 0.2, "height": 0.2}
    )
    assert review.lead_time_s is not None
    assert review.lead_time_s > 0


def test_side_place_and_size_fit_below_a_breast_lesion_and_come_back_as_corrected(
    page, door, breast_project_id, stack_labelstudio
) -> None:
    _open_stream(page, stack_labelstudio.url, breast_project_id)
    place = page.locator(".sl-place:visible")
    assert place.locator("h4").all_inner_texts() == [
        "Side",
        "Quadrant",
        "O'clock",
        "From nipple, mm",
        "Size, mm",
    ]
    assert place.locator("button").all_inner_texts() == ["left", "upper outer", "2"]
    box, submit = place.bounding_box(), page.get_by_test_id("bottombar-submit-button").bounding_box()
    assert box["y"] + box["height"] <= submit["y"], "the form does not fit on the screen"

    place.locator("button").nth(0).click()
    page.get_by_test_id("select-option-left").click()  # the chosen one again: takes it away
    page.keyboard.press("Escape")
    place.locator("button").nth(2).click()
    page.get_by_test_id("select-option-11").click()
    page.locator("input[name=breast_nipple_distance_mm]").fill("")
    page.locator("input[name=breast_size_mm]").fill("13")
    with page.expect_response(re.compile("/api/tasks/.*/annotations")) as saved:
        page.get_by_test_id("bottombar-submit-button").click()
    assert saved.value.status == 201

    (task,) = door.changes(breast_project_id, None).tasks
    found = reviews_of([task], SecretStr("a key of a test, long enough"))
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
