"""The page in a real browser, over the whole door and the built-in model."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from tests.dicom_files import speckle, ultrasound
from tests.planted_text import plant, speckle_field
from tests.serve.studies import API_KEY, VERSION, door, phantom_study, png, zipped

from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store
from sonoloop.serve.config import ServeConfig, ServeSettings, StudiesConfig
from sonoloop.serve.keyring import REFRESH_S
from sonoloop.serve.keys import Scope, add_key, revoke_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
SHOTS = os.environ.get("SONOLOOP_TEST_SHOTS")
"""A folder for screenshots, to be looked at by a person."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium; on Debian: apt-get update && apt-get install -y chromium"
    ),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ServeSettings:
    serve = ServeConfig(studies=StudiesConfig(max_bytes=4_000_000, timeout_s=600))
    return ServeSettings(workspace=str(tmp_path_factory.mktemp("page") / "ws"), serve=serve)


@pytest.fixture(scope="module")
def url(settings: ServeSettings) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONOLOOP_PSEUDONYM_KEY", "0123456789abcdef0123")
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(door(settings), log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Browser, url: str) -> Iterator[Any]:
    """Opens the page; whatever its scripts complain about, or fetch from elsewhere, fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(**how: Any) -> Page:
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(240_000)  # both cores may be busy with other tests
        page.on("pageerror", lambda err: complaints.append(str(err)))
        page.on("console", lambda said: complaints.append(said.text) if "Security" in said.text else None)
        page.on("request", lambda asked: None if own(asked.url) else complaints.append(asked.url))
        page.goto(url)
        return page

    def own(address: str) -> bool:
        return address.startswith((url, "data:", "blob:"))

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def use_key(page: Page, key: str) -> None:
    page.get_by_label("Key of this server").fill(key)
    page.get_by_role("button", name="Use key").click()


def unlock(page: Page) -> None:
    use_key(page, API_KEY)
    page.get_by_text(f"Model {VERSION}").wait_for()


def choose(page: Page, *files: bytes, name: str = "") -> None:
    chosen = [{"name": f"{name}{n}.dcm", "mimeType": "", "buffer": data} for n, data in enumerate(files)]
    page.get_by_label("Choose the files of one study").set_input_files(chosen)


def drafted(page: Page, *files: bytes) -> None:
    unlock(page)
    choose(page, *files)
    draft(page)


def draft(page: Page) -> None:
    page.get_by_role("button", name="Read and draft").click()
    page.get_by_text(f"Drafted by {VERSION}").wait_for()


def kept_cases(settings: ServeSettings) -> set[str]:
    return {case.case_id for case in read_cases(Store(settings.workspace))}


def press_and_hold(page: Page, button: str, address: str) -> Route:
    """Press a button, and hold back the request that it makes."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(address, hold, times=1)
    page.get_by_role("button", name=button, exact=True).click()
    while not held:
        page.wait_for_timeout(10)
    return held[0]


def violations(page: Page) -> list[str]:
    """What axe-core finds, by rule and place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['target']}" for one in found for node in one["nodes"]]


def shoot(page: Page, name: str) -> None:
    if SHOTS is not None:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"), full_page=True)


def in_every_way(page: Page, name: str) -> None:
    """Look at the page light and dark, wide and narrow: no barrier, and nothing beside the window."""
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == [], (scheme, width)
        box, image = (page.locator(where).bounding_box() for where in ("#boxes", "#frame"))
        assert box == image, "boxes would lie beside what they mean"
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] == sizes[1], (scheme, width)
        shoot(page, f"{name}-{scheme}-{width}")


def test_a_drafted_study_is_shown_without_barriers(opened: Any) -> None:
    page = opened()
    in_every_way(page, "start")
    drafted(page, *phantom_study(cine=True))
    report = page.locator("#report")
    assert report.get_by_role("heading").all_inner_texts() == ["Findings", "Impression"]
    assert report.get_attribute("aria-busy") == "false"
    chips = page.locator("#entities li").all_inner_texts()
    assert any(re.search(r"^margin: \w+", chip) for chip in chips)
    assert all(re.search(r"sure, |likely, |no other value", chip) for chip in chips)
    assert page.locator("#boxes rect.line").count() > 0
    in_every_way(page, "drafted")


def test_who_wants_it_sees_which_experts_were_used(opened: Any) -> None:
    page = opened()
    drafted(page, *phantom_study())
    assert not page.locator("#experts").is_visible()
    page.locator("#experts-part summary").focus()
    page.keyboard.press("Enter")
    rows = page.locator("#experts tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["0", "1", "2", "3", "all"]
    shares = [[int(share) for share in re.findall(r"(\d+) %", row)] for row in rows]
    assert all(len(row) == 6 and 97 <= sum(row) <= 103 for row in shares)
    said = re.search(
        r"expert (\d) \(\d+ %\) was used most and expert (\d)", page.locator("#experts-said").inner_text()
    )
    assert said is not None
    assert [shares[-1][int(expert)] for expert in said.groups()] == [max(shares[-1]), min(shares[-1])]
    in_every_way(page, "experts")


def test_everything_can_be_done_by_keyboard(opened: Any) -> None:
    page = opened()

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.className"))

    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(focused())
    assert order == ["skip", "key", ""]
    page.keyboard.press("Shift+Tab")
    page.keyboard.type(API_KEY)
    page.keyboard.press("Enter")
    page.locator("#files:focus").wait_for(state="attached")
    choose(page, *phantom_study(cine=True))
    for expected in ("organ", "draft"):
        page.keyboard.press("Tab")
        assert focused() == expected
    page.keyboard.press("Enter")
    page.get_by_text(f"Drafted by {VERSION}").wait_for()
    page.locator("#scrub").focus()
    page.keyboard.press("Home")
    before = page.locator("#frame").get_attribute("src")
    page.keyboard.press("End")
    assert "Key frame 2 of 2" in page.locator("#frame-caption").inner_text()
    assert page.locator("#frame").get_attribute("src") != before
    assert page.locator("#scrub").get_attribute("aria-valuetext") == "2 of 2"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#boxes rect").count() == 0


def test_a_question_about_the_frames_is_answered(opened: Any) -> None:
    page = opened(viewport={"width": 1280, "height": 900})
    drafted(page, *phantom_study())
    page.get_by_label("Question", exact=True).fill("Is the margin circumscribed?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator("#ask:enabled").wait_for()
    said = page.locator("#talk p").all_inner_texts()
    assert said[0] == "You\nIs the margin circumscribed?"
    assert len(said[1]) > len("Model\n")
    assert page.locator("#ask-error").inner_text() == ""
    assert violations(page) == []
    shoot(page, "asked")


def test_a_study_is_kept_for_label_studio_when_asked(opened: Any, settings: ServeSettings) -> None:
    page, before = opened(), kept_cases(settings)
    drafted(page, zipped(*phantom_study()))
    assert kept_cases(settings) == before
    page.get_by_role("button", name="Keep for Label Studio").click()
    page.get_by_text("The next sonoloop push brings it").wait_for()
    assert len(kept_cases(settings) - before) == 1
    assert {draft.case_id for draft in read_drafts(Store(settings.workspace))} == kept_cases(settings)


def test_what_is_kept_is_what_is_shown_whatever_is_chosen_since(opened: Any, settings: ServeSettings) -> None:
    page, before = opened(), kept_cases(settings)
    unlock(page)
    choose(page, b"no picture at all", ultrasound(speckle()), name="shown-")
    page.get_by_label("Organ").select_option("thyroid")
    request = press_and_hold(page, "Read and draft", "**/v1/drafts?*")
    choose(page, png(speckle_field()), name="next-")
    page.get_by_label("Organ").select_option("kidney")
    request.continue_()
    page.get_by_text(f"Drafted by {VERSION}").wait_for()
    notes = page.locator("#warnings").inner_text()
    assert "shown-0.dcm" in notes
    assert "next-" not in notes
    page.get_by_role("button", name="Keep for Label Studio").click()
    page.get_by_text("The next sonoloop push brings it").wait_for()
    (case_id,) = kept_cases(settings) - before
    (kept,) = (draft for draft in read_drafts(Store(settings.workspace)) if draft.case_id == case_id)
    assert kept.parsed_entities().organ == "thyroid"
    (case,) = (case for case in read_cases(Store(settings.workspace)) if case.case_id == case_id)
    assert case.scanner is not None, "pictures name no scanner"


def test_a_new_draft_ends_what_was_asked_about_the_last_one(opened: Any) -> None:
    page = opened()
    drafted(page, *phantom_study())
    page.get_by_label("Question", exact=True).fill("Is the margin circumscribed?")
    press_and_hold(page, "Ask", "**/v1/chat/completions")
    draft(page)
    page.get_by_label("Question", exact=True).fill("Is there a shadow?")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.get_by_role("button", name="Ask", exact=True).click()
    page.locator("#ask:enabled").wait_for()
    assert len(asked.value.post_data_json["messages"]) == 3
    assert page.locator("#talk p.asked").all_inner_texts() == ["You\nIs there a shadow?"]


def test_errors_are_said_in_plain_words(opened: Any) -> None:
    page = opened(viewport={"width": 1280, "height": 900})
    page.get_by_role("button", name="Read and draft").click()
    assert page.locator("#study-error").inner_text() == "Enter the server's API key first."
    use_key(page, "a wrong key of some length")
    page.get_by_text("The key is not this server's.").wait_for()
    unlock(page)
    choose(page, png(plant(speckle_field(), "ZIMMERMANN ADELHEID 17.05.1949", (40, 40), size=18)))
    page.get_by_role("button", name="Read and draft").click()
    page.get_by_text("This study cannot be shown").wait_for()
    assert page.locator("#result").is_hidden()
    assert violations(page) == []
    shoot(page, "refused")


def test_files_can_be_dropped_and_the_key_stays_in_the_tab(opened: Any) -> None:
    page = opened()
    unlock(page)
    data = page.evaluate_handle(
        """bytes => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(bytes)], "a.dcm"));
          return held;
        }""",
        list(phantom_study()[0]),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})
    page.get_by_text("Ready to draft").wait_for()
    draft(page)
    stored = page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]")
    assert stored == [[API_KEY], 0, ""]
    page.reload()
    page.get_by_text(f"Model {VERSION}").wait_for()
    page.get_by_role("button", name="Forget key").click()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_for_drafts_only_drafts_and_is_offered_no_questions(
    opened: Any, settings: ServeSettings
) -> None:
    _, key = add_key(Store(settings.workspace), "drafts-only", [Scope.DRAFTS])
    page = opened(viewport={"width": 1280, "height": 900})
    use_key(page, key)
    page.get_by_text("A key is set for this browser tab").wait_for()
    choose(page, *phantom_study())
    draft(page)
    assert page.locator("#model").is_hidden()
    assert page.locator("#key-status").inner_text() == ""
    assert page.get_by_label("Question", exact=True).is_hidden()
    assert page.get_by_text("Questions need a key with the scope chat").is_visible()
    assert violations(page) == []
    shoot(page, "drafts-only")


def test_a_key_is_forgotten_only_when_the_server_says_it_is_invalid(
    opened: Any, settings: ServeSettings
) -> None:
    record, key = add_key(Store(settings.workspace), "revoked-later", [Scope.CHAT], requests_per_minute=1)
    page = opened()
    use_key(page, key)
    page.get_by_text(f"Model {VERSION}").wait_for()
    page.reload()
    page.get_by_text("This key has asked for all it may for now").wait_for()
    page.route("**/v1/models", lambda route: route.abort())
    page.reload()
    page.get_by_text("The server does not answer").wait_for()
    assert page.evaluate("Object.values(sessionStorage)") == [key]
    page.unroute("**/v1/models")
    revoke_key(Store(settings.workspace), record.name)
    time.sleep(2 * REFRESH_S)
    page.reload()
    page.get_by_text("The key is not this server's").wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_page_is_whole_without_other_hosts_and_forbids_what_it_does_not_need(url: str) -> None:
    answer = httpx.get(url, timeout=60)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for name in re.findall(r'(?:src|href)="(/[^"]*)"', answer.text):
        found = httpx.get(url + name, timeout=60)
        assert found.status_code == 200, name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", found.text), name
