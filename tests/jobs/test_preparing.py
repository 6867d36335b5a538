"""The CPU stage on real files: every case leaves as exactly one prepared case or one rejection."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.preparing import Preparer
from sonoloop.jobs.annotating.units import UNITS, UnitCase
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.model import nano
from sonoloop.model.engine_config import EngineConfig
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.model.processor import EchoVLMProcessor
from sonoloop.platform import registry
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.records import CaseImage, CaseRecord
from sonoloop.platform.workspace import Store

Outcome = PreparedCase | RejectedError
RAMP = np.tile(np.linspace(0, 255, 224).astype(np.uint8), (168, 1))


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims ``side`` x ``side`` pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100_000), 9)
    chunks = (
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (header, data)
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("workspace")
    store = Store(str(folder))
    registry.publish(store, nano.folder(), "echovlm-nano", lineage={})
    return store


@pytest.fixture(scope="module")
def version(workspace: Store) -> str:
    (folder,) = Path(workspace.root, "models", "echovlm-nano").iterdir()
    return f"echovlm-nano/{folder.name}"


@pytest.fixture(scope="module")
def preparer(workspace: Store, version: str) -> Preparer:
    return Preparer(run_of(workspace, version, EngineConfig()))


def run_of(workspace: Store, version: str, engine: EngineConfig) -> RunContext:
    return RunContext(workspace, "run", version, "prompt", "hash", AnnotateConfig(engine=engine), None)


def stored(workspace: Store, case_id: str, *files: bytes | None) -> CaseRecord:
    """A case whose key frames are these bytes; ``None`` is a frame that is gone."""
    images = []
    for index, data in enumerate(files):
        key = f"images/{case_id}/{index}.png"
        if data is not None:
            workspace.write_bytes(data, key)
        images.append(CaseImage(image_key=key, instance_id="i", frame_index=index, width=224, height=168))
    return CaseRecord(
        case_id=case_id,
        patient_key="p",
        organ_hint="liver",
        scanner=None,
        images=tuple(images),
        indexed_at=datetime(2025, 1, 1, tzinfo=UTC),
    )


def prepared(preparer: Preparer, *cases: CaseRecord) -> list[Outcome]:
    """What the stage makes of one unit of these cases."""
    return outcomes(preparer, [unit_case(case) for case in cases])


def unit_case(case: CaseRecord) -> UnitCase:
    keys = tuple(image.image_key for image in case.images)
    return UnitCase(case.case_id, case.organ_hint, keys, case.inputs_hash, attempts=0)


def outcomes(preparer: Preparer, cases: list[UnitCase]) -> list[Outcome]:
    unit = {"unit": 7, "cases": [case.row() for case in cases]}
    (row,) = preparer(pa.Table.from_pylist([unit], schema=UNITS)).to_pylist()
    assert row["unit"] == 7
    found: list[tuple[UnitCase, Outcome]] = pickle.loads(row["prepared"])
    assert [case for case, _ in found] == cases
    return [outcome for _, outcome in found]


def case_of(outcome: Outcome) -> PreparedCase:
    assert isinstance(outcome, PreparedCase)
    return outcome


def seen(outcome: Outcome) -> torch.Tensor:
    """What the vision tower reads."""
    return case_of(outcome).patches.normalised()


def reason_of(outcome: Outcome) -> Reason:
    assert isinstance(outcome, RejectedError)
    return outcome.reason


GOOD = saved(Image.fromarray(RAMP))
BAD = {
    "empty": (b"", Reason.EMPTY_OBJECT),
    "no picture": (b"<Error>NoSuchKey</Error>", Reason.NOT_AN_IMAGE),
    "no data after the header": (GOOD[:40], Reason.NOT_AN_IMAGE),
    "cut png": (GOOD[: len(GOOD) // 2], Reason.TRUNCATED),
    "cut jpeg": (saved(Image.fromarray(RAMP), "JPEG")[:1000], Reason.TRUNCATED),
    "1x1": (saved(Image.new("L", (1, 1))), Reason.NOT_AN_IMAGE),
    "thin": (saved(Image.new("L", (2000, 20))), Reason.NOT_AN_IMAGE),
    "20,000 x 20,000": (bomb(20_000), Reason.TOO_LARGE),
    "9,000 x 9,000": (bomb(9_000), Reason.TOO_LARGE),
    "animated": (
        saved(Image.fromarray(RAMP), save_all=True, append_images=[Image.fromarray(255 - RAMP)]),
        Reason.NOT_AN_IMAGE,
    ),
    "tiff": (saved(Image.fromarray(RAMP), "TIFF"), Reason.NOT_AN_IMAGE),
    "gone": (None, Reason.IMAGE_MISSING),
}


def test_bad_key_frames_become_rejections_and_leave_the_good_cases_alone(
    preparer: Preparer, workspace: Store, caplog: pytest.LogCaptureFixture
) -> None:
    cases = [stored(workspace, name, GOOD, data) for name, (data, _) in BAD.items()]
    none = stored(workspace, "no frames")
    good = [stored(workspace, name, GOOD) for name in ("first", "last")]
    first, *rows, last = prepared(preparer, good[0], *cases, none, good[1])
    found = [reason_of(row) for row in rows]
    assert found == [*(reason for _, reason in BAD.values()), Reason.NO_PIXELS]
    assert torch.equal(seen(first), seen(last))
    assert case_of(first).organ_hint == "liver"
    assert not caplog.records  # each was foreseen; none came through the broad catch


def test_every_kind_of_key_frame_is_prepared_like_its_plain_twin(
    preparer: Preparer, workspace: Store
) -> None:
    rgb = np.repeat(RAMP[:, :, None], 3, axis=2)
    files = {
        "rgb": saved(Image.fromarray(rgb)),
        "rgba": saved(Image.fromarray(np.dstack([rgb, 255 - RAMP]), "RGBA")),
        "grey-alpha": saved(Image.fromarray(np.dstack([RAMP, 255 - RAMP]), "LA")),
        "palette": saved(Image.fromarray(RAMP).convert("P"), transparency=7),
        "16-bit": saved(Image.fromarray(RAMP.astype(np.uint16) * 257)),
    }
    plain, *rows = prepared(
        preparer,
        stored(workspace, "plain", GOOD),
        *(stored(workspace, name, data) for name, data in files.items()),
    )
    for row in rows:
        assert torch.equal(seen(row), seen(plain))
    close = prepared(
        preparer,
        stored(workspace, "cmyk", saved(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)),
        stored(workspace, "1-bit", saved(Image.fromarray(RAMP).convert("1"))),
    )
    torch.testing.assert_close(seen(close[0]), seen(plain), rtol=0, atol=0.1)
    assert seen(close[1]).shape == seen(plain).shape


def test_a_stored_frame_is_prepared_as_it_always_was(preparer: Preparer, workspace: Store) -> None:
    (row,) = prepared(preparer, stored(workspace, "always", GOOD))
    processor = EchoVLMProcessor.from_folder(nano.folder())
    before = processor.image_processor(images=[np.repeat(RAMP[:, :, None], 3, axis=2)], return_tensors="np")
    np.testing.assert_array_equal(seen(row).numpy(), before["pixel_values"])
    assert torch.equal(seen(row), seen(prepare(processor, CaseInput("a", (RAMP,)))))


def test_of_sixty_key_frames_sixteen_are_fetched_and_the_case_knows_which(
    preparer: Preparer, workspace: Store
) -> None:
    wanted = (0, 4, 8, 12, 16, 20, 24, 28, 31, 35, 39, 43, 47, 51, 55, 59)
    files = [GOOD if index in wanted else None for index in range(60)]  # the others are not even there
    (row,) = prepared(preparer, stored(workspace, "sixty", *files))
    assert case_of(row).image_indices == wanted
    assert len(case_of(row).image_grid_thw) == 16


def test_the_engines_limits_reach_the_stage(workspace: Store, version: str) -> None:
    limits = EngineConfig(max_images=2, max_pixels=56 * 56)
    small = Preparer(run_of(workspace, version, limits))
    (row,) = prepared(small, stored(workspace, "five", *[GOOD] * 5))
    assert case_of(row).image_indices == (0, 4)
    assert case_of(row).image_grid_thw.prod(axis=1).max() * 14 * 14 <= 56 * 56


def test_what_nobody_foresaw_rejects_its_case_only(
    preparer: Preparer, workspace: Store, caplog: pytest.LogCaptureFixture
) -> None:
    before, odd, after = (unit_case(stored(workspace, name, GOOD)) for name in ("before", "odd", "after"))
    damaged = replace(odd, image_keys=(None,))  # type: ignore[arg-type]
    first, rejected, last = outcomes(preparer, [before, damaged, after])
    assert isinstance(rejected, RejectedError)
    assert (rejected.reason, rejected.retryable) == (Reason.UNREADABLE, False)
    assert "TypeError" in rejected.detail
    assert torch.equal(seen(first), seen(last))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
