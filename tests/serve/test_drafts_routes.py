"""``/v1/drafts`` over the built-in model: real readers, real files, no Ray."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from tests.dicom_files import IDENTIFIERS, NAME, speckle, ultrasound
from tests.planted_text import plant, speckle_field
from tests.serve.studies import API_KEY, VERSION, door, phantom_study, png, zipped

from sonoloop.jobs.annotating.selection import EVERYTHING, Chooser
from sonoloop.jobs.config import Config, IndexConfig
from sonoloop.jobs.index import run_index
from sonoloop.jobs.pulling.withdrawing import withdraw
from sonoloop.model.prompts import draft_recipe
from sonoloop.platform.tables import read_cases, read_drafts, read_frames, read_instances
from sonoloop.platform.workspace import Store
from sonoloop.serve.config import ServeConfig, ServeSettings, StudiesConfig

PSEUDONYM_KEY = "0123456789abcdef0123"
LIMITS = StudiesConfig(max_bytes=4_000_000, max_files=20)
Ask = Callable[..., httpx.Response]


@pytest.fixture(scope="module", autouse=True)
def _key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SONOLOOP_PSEUDONYM_KEY", PSEUDONYM_KEY)
        yield


def settings_in(folder: Path) -> ServeSettings:
    return ServeSettings(workspace=str(folder / "ws"), serve=ServeConfig(studies=LIMITS))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeSettings]:
    """A door that is not asked to keep anything, and whose next reader is always warm."""
    settings = settings_in(tmp_path_factory.mktemp("nothing"))
    yield settings
    assert not Path(settings.workspace).exists()


@pytest.fixture
def keeping(tmp_path: Path) -> ServeSettings:
    """A door with a workspace of its own."""
    return settings_in(tmp_path)


def post(settings: ServeSettings, *files: bytes, key: str = API_KEY, **query: Any) -> httpx.Response:
    parts = [("files", (f"{NAME}.dcm", data)) for data in files]
    return send(settings, files=parts, params=query, headers={"Authorization": f"Bearer {key}"})


def send(settings: ServeSettings, **how: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(door(settings), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://door", timeout=120) as http:
            return await http.post("/v1/drafts", **how)

    return asyncio.run(main())


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def code(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


@pytest.fixture(scope="module")
def answered(settings: ServeSettings) -> httpx.Response:
    return post(settings, *phantom_study())


def test_a_study_is_answered_with_clean_frames_report_entities_and_boxes(answered: httpx.Response) -> None:
    body = answered.json()
    assert (answered.status_code, body["model"], body["organ"]) == (200, VERSION, "breast")
    assert body["findings"]
    assert body["impression"]
    assert {"field": "organ", "value": "breast", "confidence": None} in body["entities"]
    assert all(0 <= one["confidence"] <= 1 for one in body["entities"][1:])
    assert (body["calibrated"], body["kept"]) == (False, None)
    assert {box["image_index"] for box in body["boxes"]} <= {f["image_index"] for f in body["frames"]}
    per_layer = [sum(layer) for layer in body["expert_counts"]]
    assert (len(per_layer), len(set(per_layer))) == (4, 1)  # each token chooses as many in every layer
    assert {len(layer) for layer in body["expert_counts"]} == {6}
    for frame in body["frames"]:
        data = base64.b64decode(frame["image"].partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (frame["width"], frame["height"])


def test_pieces_of_a_streamed_report_come_before_the_same_draft(
    settings: ServeSettings, answered: httpx.Response
) -> None:
    told = events(post(settings, *phantom_study(), stream=True))
    names = [name for name, _ in told]
    assert (names[0], names[1], names[-2:]) == ("frames", "report", ["entities", "done"])
    whole, done = answered.json(), told[-1][1]
    assert all(done[name] == whole[name] for name in ("findings", "impression", "entities", "boxes"))
    assert sum(done["expert_counts"][0]) <= sum(whole["expert_counts"][0])  # how both prompts begin is kept
    text = "".join(data["text"] for name, data in told if name == "report")
    assert whole["findings"] in text
    assert whole["impression"] in text


def test_base64_and_a_zip_are_the_same_study(settings: ServeSettings, answered: httpx.Response) -> None:
    archive = zipped(*phantom_study(), names=("a/Miller.dcm", "b/Miller.dcm"))
    response = send(
        settings,
        json={"files": [base64.b64encode(archive).decode()]},
        params={"images": "none"},
        headers={"Authorization": f"Bearer {API_KEY}"},
    )
    body, whole = response.json(), answered.json()
    assert body["case_id"] == whole["case_id"]
    assert body["entities"] == whole["entities"]
    assert all(frame["image"] is None for frame in body["frames"])


def test_the_draft_comes_as_fhir_and_as_a_structured_report(
    settings: ServeSettings, answered: httpx.Response
) -> None:
    fhir = send(
        settings,
        files=[("files", ("x", data)) for data in phantom_study()],
        headers={"Authorization": f"Bearer {API_KEY}", "Accept": "application/fhir+json"},
    )
    assert fhir.headers["content-type"] == "application/fhir+json"
    kinds = {entry["resource"]["resourceType"] for entry in fhir.json()["entry"]}
    assert {"DiagnosticReport", "Observation", "ImagingStudy"} <= kinds
    report = post(settings, *phantom_study(), format="sr")
    assert report.headers["content-type"] == "application/dicom"
    dataset = pydicom.dcmread(io.BytesIO(report.content))
    assert (dataset.Modality, dataset.VerificationFlag) == ("SR", "UNVERIFIED")
    assert answered.json()["findings"].encode() in report.content


@pytest.mark.ray
def test_a_kept_study_is_what_indexing_and_annotating_make_of_it(
    keeping: ServeSettings, tmp_path: Path, ray_cluster: str
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for number, data in enumerate(phantom_study()):
        (archive / f"{number}.dcm").write_bytes(data)
    indexed = Store(str(tmp_path / "indexed"))
    Path(indexed.root).mkdir()
    run_index(Config(workspace=indexed.uri, archive=str(archive), index=IndexConfig()))
    body = post(keeping, *phantom_study(), keep=True, images="links").json()
    assert body["kept"] == {"case": "new", "draft": "new"}
    kept = Store(keeping.workspace)
    (case,), (there,) = read_cases(kept), read_cases(indexed)
    assert (case.case_id, case.patient_key, case.images) == (there.case_id, there.patient_key, there.images)
    frames = [(frame.image_key, frame.masks, frame.perceptual_hash) for frame in read_frames(kept)]
    assert frames == [(f.image_key, f.masks, f.perceptual_hash) for f in read_frames(indexed)]
    (draft,) = read_drafts(kept)
    assert (draft.model_version, draft.inputs_hash, draft.attempts) == (VERSION, case.inputs_hash, 1)
    again = post(keeping, *phantom_study(), keep=True).json()
    assert again["kept"] == {"case": "there before", "draft": "there before"}
    run_index(Config(workspace=kept.uri, archive=str(archive), index=IndexConfig()))
    assert [one.case_id for one in read_cases(kept)] == [case.case_id]
    assert read_cases(kept)[0].images == case.images
    assert post(keeping, phantom_study()[0], keep=True).json()["kept"] == {
        "case": "there with other frames",
        "draft": "not kept",
    }


@pytest.mark.ray
def test_a_kept_study_stays_when_the_archive_is_indexed_without_it_and_is_not_drafted_again(
    keeping: ServeSettings, tmp_path: Path, ray_cluster: str
) -> None:
    assert post(keeping, *phantom_study(), keep=True, images="none").json()["kept"]["case"] == "new"
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "other.dcm").write_bytes(ultrasound(speckle()))
    kept = Store(keeping.workspace)
    before = read_cases(kept)
    run_index(Config(workspace=kept.uri, archive=str(archive)))
    assert before[0] in read_cases(kept)
    chooser = Chooser(kept, VERSION, draft_recipe("en").id, EVERYTHING)
    assert before[0].case_id not in {case.case_id for case in chooser.choose()}


def test_kept_frames_have_addresses_and_others_have_none(keeping: ServeSettings) -> None:
    body = post(keeping, *phantom_study(), keep=True, images="links").json()
    addresses = [frame["image"] for frame in body["frames"]] + [f"/v1/drafts/frames/{'0' * 64}.png"]

    async def main() -> list[httpx.Response]:
        transport, headers = httpx.ASGITransport(door(keeping)), {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://door", headers=headers) as http:
            return [await http.get(address) for address in addresses]

    *there, missing = asyncio.run(main())
    assert all(answer.content.startswith(b"\x89PNG") for answer in there)
    assert (missing.status_code, code(missing)) == (404, "no_such_frame")


def test_a_study_in_which_somebody_saw_patient_data_is_not_kept_again(keeping: ServeSettings) -> None:
    assert post(keeping, *phantom_study(), keep=True, images="none").json()["kept"]["case"] == "new"
    workspace = Store(keeping.workspace)
    (case,) = read_cases(workspace)
    assert withdraw(workspace, {case.case_id: "reader"}) == 1
    body = post(keeping, *phantom_study(), keep=True).json()
    assert body["kept"] == {"case": "withdrawn", "draft": "not kept"}
    assert body["findings"]
    assert read_cases(workspace) == []
    assert not any(workspace.exists(image.image_key) for image in case.images)


def test_a_picture_in_which_somebody_saw_patient_data_is_not_kept_in_other_company(
    keeping: ServeSettings, answered: httpx.Response
) -> None:
    shown = [frame["image"].partition(",")[2] for frame in answered.json()["frames"]]
    first, second = (base64.b64decode(data) for data in shown)
    kept = [post(keeping, file, keep=True, images="none").json()["kept"]["case"] for file in (first, second)]
    assert kept == ["new", "new"]
    workspace = Store(keeping.workspace)
    seen = post(keeping, first, images="none").json()["case_id"]
    assert withdraw(workspace, {seen: "reader"}) == 1
    both = post(keeping, second, first, keep=True, images="none").json()
    assert both["kept"] == {"case": "withdrawn", "draft": "not kept"}
    assert len(read_cases(workspace)) == 1


def test_frames_are_given_addresses_once_they_are_kept_and_none_where_they_are_not(
    keeping: ServeSettings,
) -> None:
    wishes = {"keep": True, "images": "links"}
    told = events(post(keeping, *phantom_study(), stream=True, **wishes))
    first, again = (data for name, data in told if name == "frames")
    assert [name for name, _ in told][-3:] == ["frames", "entities", "done"]
    assert [frame["image"] for frame in first["frames"]] == [None, None]
    assert all(Path(keeping.workspace, image_key(frame)).exists() for frame in again["frames"])
    less = events(post(keeping, phantom_study()[0], stream=True, **wishes))
    assert less[-1][1]["kept"]["draft"] == "not kept"
    assert [[frame["image"] for frame in data["frames"]] for name, data in less if name == "frames"] == [
        [None]
    ]
    whole = post(keeping, phantom_study()[0], **wishes).json()
    assert [frame["image"] for frame in whole["frames"]] == [None]


def image_key(frame: dict[str, Any]) -> str:
    name = frame["image"].rpartition("/")[2]
    return f"images/{name[:2]}/{name}"


def test_what_cannot_be_shown_clean_is_refused_and_not_kept(keeping: ServeSettings) -> None:
    named = png(plant(speckle_field(), "ZIMMERMANN ADELHEID 17.05.1949", (40, 40), size=18))
    for query in ({}, {"stream": True}, {"keep": True}):
        response = post(keeping, named, **query)
        assert (response.status_code, code(response)) == (422, "phi-suspected")
    assert not Path(keeping.workspace).exists()


def test_text_inside_a_region_is_masked_and_told(settings: ServeSettings) -> None:
    pixels = plant(speckle_field(), "ZIMMERMANN", (200, 150), size=20)
    body = post(settings, ultrasound(pixels, regions=((0, 20, 470, 350),)), images="none").json()
    assert body["frames"][0]["masks"]
    assert {(one["code"], one["file"]) for one in body["warnings"]} == {("masked-text", 0)}


def test_files_beside_the_study_are_named_by_their_number(settings: ServeSettings) -> None:
    files = (b"no picture at all", *phantom_study(), png(speckle_field()))
    body = post(settings, *files, images="none").json()
    assert {(one["code"], one["file"]) for one in body["warnings"]} == {
        ("not-an-image", 0),
        ("beside-dicom", len(files) - 1),
    }


def test_pictures_make_one_study_with_an_organ_that_is_told(
    settings: ServeSettings, answered: httpx.Response
) -> None:
    shown = [frame["image"].partition(",")[2] for frame in answered.json()["frames"]]
    files = [base64.b64decode(data) for data in shown]
    body = post(settings, *files, organ="breast", images="none").json()
    assert (len(body["frames"]), body["organ"]) == (2, "breast")
    refused = post(settings, *files, organ="breast", format="sr")
    assert (refused.status_code, code(refused)) == (406, "not-dicom")


@pytest.mark.parametrize(
    ("files", "query", "expected"),
    [
        ((b"",), {}, (422, "empty-object")),
        ((b"hello",), {}, (422, "not-an-image")),
        ((ultrasound(speckle()), ultrasound(speckle(), study="1.2.3")), {}, (422, "bad-entry")),
        ((zipped(*[b"x"] * 30),), {}, (422, "too-large")),
        ((bytes(5_000_000),), {}, (413, "body_too_large")),
        ((b"x",) * 21, {}, (400, "invalid_value")),
        ((b"x",), {"images": "links"}, (400, "invalid_value")),
        ((b"x",), {"format": "sr", "stream": True}, (400, "invalid_value")),
        ((b"x",), {"organ": "spleen"}, (400, "invalid_value")),
        ((b"x",), {"patient": "Jane"}, (400, "invalid_value")),
        ((), {}, (400, "invalid_value")),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(
    settings: ServeSettings, files: tuple[bytes, ...], query: dict[str, Any], expected: tuple[int, str]
) -> None:
    response = post(settings, *files, **query)
    assert (response.status_code, code(response)) == expected
    assert "Jane" not in response.text


def test_without_the_key_nothing_is_read(settings: ServeSettings) -> None:
    assert post(settings, b"x", key="another-key-0123456789").status_code == 401


def test_without_a_pseudonym_key_studies_are_drafted_and_cannot_be_kept(
    keeping: ServeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SONOLOOP_PSEUDONYM_KEY")
    assert post(keeping, *phantom_study(), images="none").status_code == 200
    assert code(post(keeping, *phantom_study(), keep=True)) == "cannot_keep"


def test_nothing_of_a_patient_is_logged_or_answered(
    keeping: ServeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = post(keeping, ultrasound(speckle()), keep=True)
    kept = [
        *map(str, read_instances(Store(keeping.workspace))),
        *map(str, read_cases(Store(keeping.workspace))),
    ]
    for identifier in (*IDENTIFIERS, NAME):
        assert identifier not in response.text
        assert identifier not in caplog.text
        assert identifier not in "".join(kept)


def test_members_of_a_zip_are_kept_without_their_paths(keeping: ServeSettings) -> None:
    post(keeping, zipped(*phantom_study(), names=("Miller/1", "Miller/2")), keep=True, images="none")
    rows = read_instances(Store(keeping.workspace))
    assert len(rows) == 2
    assert not any("Miller" in str(row) for row in rows)


def test_health_is_told_and_the_next_but_too_many_are_refused_while_a_cine_is_cleaned(
    settings: ServeSettings,
) -> None:
    limits = LIMITS.model_copy(update={"max_bytes": 2**28, "max_waiting": 0, "timeout_s": 100})
    settings = settings.model_copy(update={"serve": ServeConfig(studies=limits)})
    rng = np.random.default_rng(0)
    cine = ultrasound(
        rng.integers(0, 255, (40, 600, 800), dtype=np.uint8), frames=40, regions=((0, 0, 799, 599),)
    )

    async def main() -> tuple[int, list[httpx.Response]]:
        transport, headers = httpx.ASGITransport(door(settings)), {"Authorization": f"Bearer {API_KEY}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://door", headers=headers, timeout=120
        ) as http:
            body = {"files": [("files", ("x", cine))]}
            under_way = asyncio.create_task(http.post("/v1/drafts", **body))
            await asyncio.sleep(0.5)
            refused = await http.post("/v1/drafts", **body)
            num_answered = 0
            while not under_way.done():
                assert (await http.get("/healthz")).status_code == 200
                num_answered += 1
                await asyncio.sleep(0.05)
            return num_answered, [refused, await under_way]

    num_answered, (refused, _) = asyncio.run(main())
    assert num_answered >= 10
    assert (refused.status_code, code(refused)) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 0


def test_a_study_that_takes_too_long_is_given_up_and_its_reader_ended(settings: ServeSettings) -> None:
    limits = LIMITS.model_copy(update={"timeout_s": 0.2})
    settings = settings.model_copy(update={"serve": ServeConfig(studies=limits)})
    response = post(settings, *phantom_study())
    assert (response.status_code, code(response)) == (504, "timeout")
