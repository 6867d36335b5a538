"""Indexing on the local S3: objects per second, bytes and requests per object, memory of the driver.

1. Headers: stage 1 of ``sonoloop index`` on one core, beside the naive way (download the whole file,
   ``pydicom.dcmread``), for stills, cines, and a mixed archive.
2. End to end: both stages with all that they do (masks, text search, hashes, tables), beside the naive way
   (download, ``pixel_array`` of all frames or of key frames only, Pillow PNG, one after the other on each of
   as many processes as there are cores).
3. Peak memory of the driver for 10 thousand, 100 thousand and 1 million objects, simulated:
   rows of a table and a manifest that lists the same objects.

The naive way masks nothing, reads no text and remembers nothing: it is what a script does.
"""

from __future__ import annotations

import argparse
import io
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pydicom
import ray
from PIL import Image
from pydantic import SecretStr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

from sonoloop.jobs.config import Config
from sonoloop.jobs.index import run_index
from sonoloop.platform.archive.grouping import CaseFinder, CaseWork
from sonoloop.platform.archive.headers import HeaderReader
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.records import CaseRecord, content_id
from sonoloop.platform.sorted_rooms import CASES, INSTANCES, KeyRange, write_sorted
from sonoloop.platform.stack import Component, StackConfig, environment, start, stop
from sonoloop.platform.workspace import ObjectInfo, Store

ROWS, COLUMNS = 600, 800
KINDS = {"stills": (60, 0, 1), "cines": (0, 12, 70), "mixed": (120, 16, 70)}
"""Number of stills, number of cines, frames of a cine; a cine of 70 frames has 100 MB."""
KEY_FRAMES = 2
SIMULATED_ROWS = 1000
SIMULATED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def ultrasound(study: int, number: int, frames: int, *, rows: int = ROWS, columns: int = COLUMNS) -> bytes:
    """An uncompressed colour object with one declared region and a picture-like content."""
    rng = np.random.default_rng(1000 * study + number)
    y, x = np.mgrid[:rows, :columns]
    speckle = rng.rayleigh(40, (rows, columns)) * (0.4 + 0.6 * np.cos(x / 90 + study) * np.sin(y / 70))
    grey = np.clip(np.abs(speckle), 0, 255).astype(np.uint8)
    loop = np.stack([np.roll(grey, 2 * n, axis=1) for n in range(frames)])
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = UltrasoundMultiFrameImageStorage, f"1.2.3.{study}.{number}"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.3.{study}", f"1.2.3.{study}.0"
    data.PatientID, data.Modality, data.BodyPartExamined = f"P{study}", "US", "LIVER"
    data.Rows, data.Columns, data.SamplesPerPixel, data.NumberOfFrames = rows, columns, 3, frames
    data.PhotometricInterpretation, data.PlanarConfiguration = "RGB", 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 40, 60
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = columns - 41, rows - 41
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    data.SequenceOfUltrasoundRegions = [region]
    data.PixelData = np.repeat(loop[..., None], 3, axis=3).tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def fill(archive: Store, num_stills: int, num_cines: int, frames: int) -> None:
    """Write an archive of studies of four objects."""
    for number in range(num_stills):
        archive.write_bytes(ultrasound(number // 4, number, 1), f"{number // 4}/{number}.dcm")
    for number in range(num_cines):
        study = 1000 + number // 2
        archive.write_bytes(ultrasound(study, number, frames), f"{study}/{number}.dcm")


@dataclass(frozen=True)
class Figures:
    """Seconds, and what was moved."""

    seconds: float
    bytes_read: int
    requests: int


def our_headers(archive: Store, infos: Sequence[ObjectInfo]) -> Figures:
    """Stage 1 in this process: what one task does on one core."""
    config = IndexConfig()
    reader = HeaderReader(ArchiveReader(archive, config), SecretStr(secrets.token_hex()), datetime.now(UTC))
    begin = time.perf_counter()
    rows = reader.read_all(infos, at_once=config.requests_at_once, done=lambda _: None)
    seconds = time.perf_counter() - begin
    assert all(row.status == "indexed" for row in rows)
    return Figures(seconds, sum(row.bytes_read for row in rows), sum(row.requests for row in rows))


def naive_headers(archive: Store, infos: Sequence[ObjectInfo]) -> Figures:
    """Download the whole file, read it with pydicom; as many at once as ours."""

    def read(info: ObjectInfo) -> int:
        data = archive.read_path(info.uri.removeprefix("s3://"))
        assert pydicom.dcmread(io.BytesIO(data)).Modality == "US"
        return len(data)

    begin = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(read, infos))
    return Figures(time.perf_counter() - begin, sum(sizes), 2 * len(infos))  # pyarrow asks for the size first


def naive_whole(archive: Store, infos: Sequence[ObjectInfo], *, all_frames: bool) -> float:
    """Seconds of the naive way from objects to PNG, on all cores."""
    folder = tempfile.mkdtemp()
    begin = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [(archive, info, folder, all_frames) for info in infos]
        list(pool.map(_naive_object, jobs))
    return time.perf_counter() - begin


def _naive_object(job: tuple[Store, ObjectInfo, str, bool]) -> None:
    archive, info, folder, all_frames = job
    data = archive.read_path(info.uri.removeprefix("s3://"))
    dataset = pydicom.dcmread(io.BytesIO(data))
    pixels = dataset.pixel_array
    frames = pixels[None] if pixels.ndim == 3 else pixels
    chosen = range(len(frames)) if all_frames else np.linspace(0, len(frames) - 1, KEY_FRAMES).astype(int)
    for index in sorted(set(map(int, chosen))):
        name = content_id(info.uri, str(index))
        Image.fromarray(frames[index]).save(Path(folder) / f"{name}.png")


def our_whole(archive: Store, workspace: Store, *, clean: bool) -> float:
    """Seconds of ``sonoloop index`` in a Ray that is up, with or without the search for text."""
    config = Config(
        workspace=workspace.uri,
        archive=archive.uri,
        s3=archive.s3,
        index=IndexConfig.model_validate(
            {"key_frames": KEY_FRAMES, "max_images": 8, "deidentify": {"pictures_are_clean": clean}}
        ),
    )
    begin = time.perf_counter()
    run_index(config)
    return time.perf_counter() - begin


@contextmanager
def local_s3() -> Iterator[str]:
    """A bucket on an S3 of its own; the keys are in the environment."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(StackConfig(folder=folder, components=(Component.S3,)))
        os.environ.update(environment(folder))
        os.environ.setdefault(KEY_VARIABLE, secrets.token_hex())
        try:
            yield "sonoloop-archive"
        finally:
            stop(folder)


def speeds(bucket: str, repeats: int) -> None:
    """Measure and print the first two parts."""
    for kind, (num_stills, num_cines, frames) in KINDS.items():
        archive = Store(f"s3://{bucket}/{kind}")
        fill(archive, num_stills, num_cines, frames)
        infos = list(archive.list_objects())
        sides = [(our_headers(archive, infos), naive_headers(archive, infos)) for _ in range(repeats)]
        ratios = sorted(naive.seconds / ours.seconds for ours, naive in sides)
        print(f"{kind}: {len(infos)} objects, {sum(i.size_bytes for i in infos) / 1e6:.0f} MB; headers")
        for name, figures in zip(("ours", "naive"), zip(*sides, strict=True), strict=True):
            rate = sorted(len(infos) / each.seconds for each in figures)[len(figures) // 2]
            moved = figures[0].bytes_read / len(infos) / 1e6
            print(
                f"  {name}: {rate:.0f} objects/s, {moved:.3f} MB and "
                f"{figures[0].requests / len(infos):.1f} requests per object"
            )
        print(f"  ratio {ratios[0]:.1f} / {ratios[len(ratios) // 2]:.1f} / {ratios[-1]:.1f}")
        for number in range(repeats):
            whole = {
                "ours": our_whole(archive, Store(f"s3://sonoloop-workspace/{kind}{number}"), clean=False),
                "ours, text search off": our_whole(
                    archive, Store(f"s3://sonoloop-workspace/{kind}{number}c"), clean=True
                ),
                "naive, all frames": naive_whole(archive, infos, all_frames=True),
                "naive, key frames": naive_whole(archive, infos, all_frames=False),
            }
            print("  end to end, s: " + ", ".join(f"{name} {s:.1f}" for name, s in whole.items()))


def rate(bucket: str, num_objects: int) -> None:
    """Stage 1 of many small objects through Ray, and a second run that finds nothing new."""
    archive, workspace = Store(f"s3://{bucket}/many"), Store("s3://sonoloop-workspace/many")
    head = ultrasound(0, 0, 1, rows=200, columns=300)
    with ThreadPoolExecutor(8) as pool:
        names = [f"{n % 100:02d}/{n}.dcm" for n in range(num_objects)]
        list(pool.map(partial(archive.write_bytes, head), names))
    config = Config(workspace=workspace.uri, archive=archive.uri, s3=archive.s3)
    for name in ("first", "second"):
        begin = time.perf_counter()
        summary = run_index(config, headers_only=True)
        seconds = time.perf_counter() - begin
        print(
            f"{num_objects} objects of {len(head) / 1e6:.1f} MB, {name} run: {seconds:.1f} s, "
            f"{num_objects / seconds / (os.cpu_count() or 1):.0f} objects/s per core, "
            f"{summary.bytes_read / num_objects / 1e3:.0f} kB and {summary.requests / num_objects:.2f} "
            "requests per object"
        )


def memory() -> None:
    """Peak memory of the driver, each size in a process of its own."""
    for num_objects in (10_000, 100_000, 1_000_000):
        code = f"from benchmarks.indexing import memory_of; memory_of({num_objects})"
        subprocess.run([sys.executable, "-c", f"{_AUTHENTICATE}; {code}"], check=True)


_AUTHENTICATE = "from sonoloop.platform.cluster import choose_authentication; choose_authentication()"


def memory_of(num_objects: int) -> None:
    """Index an archive that is known already, both stages, and print the driver's peak."""
    os.environ.setdefault(KEY_VARIABLE, secrets.token_hex())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive, workspace = Store(str(folder / "archive")), Store(str(folder / "workspace"))
        for store in (archive, workspace):
            Path(store.root).mkdir()
        subprocess.run(
            [sys.executable, "-c", _SIMULATE, str(num_objects), archive.uri, workspace.uri], check=True
        )
        config = Config(
            workspace=workspace.uri,
            archive=archive.uri,
            index=IndexConfig(manifest=str(folder / "workspace" / "manifest.csv")),
        )
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        before = _peak_mib()
        begin = time.perf_counter()
        summary = run_index(config, headers_only=False)
        seconds = time.perf_counter() - begin
        after = _peak_mib()
        print(
            f"{num_objects:,} objects, {summary.unchanged:,} unchanged, {summary.cases_made} cases made: "
            f"driver's peak {after:.0f} MiB ({before:.0f} before), {seconds:.0f} s",
            flush=True,
        )


def _peak_mib() -> float:
    """This process's own peak; ``ru_maxrss`` begins with that of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


_SIMULATE = "import sys; from benchmarks.indexing import simulate; simulate(int(sys.argv[1]), *sys.argv[2:])"


def simulate(num_objects: int, archive_uri: str, workspace_uri: str) -> None:
    """Rows of instances, ten to a case, their cases, and a manifest that lists them all."""
    archive, workspace = Store(archive_uri), Store(workspace_uri)
    finder = CaseFinder(workspace, (), IndexConfig())
    cases: list[CaseRecord] = []
    for begin in range(0, num_objects, SIMULATED_ROWS):
        numbers = range(begin, min(begin + SIMULATED_ROWS, num_objects))
        rows = [_simulated(archive, number) for number in numbers]
        write_sorted(workspace, INSTANCES, rows, "simulated", f"{begin}.parquet")
        table = InstanceRecord.table(rows).sort_by("case_id")
        cases += [_simulated_case(w) for chunk in finder.chunks(table, KeyRange()) for w in chunk.work]
    cases.sort(key=lambda case: case.case_id)
    for begin in range(0, len(cases), SIMULATED_ROWS):
        write_sorted(workspace, CASES, cases[begin : begin + SIMULATED_ROWS], "simulated", f"{begin}.parquet")
    uris = [_simulated(archive, number).uri for number in range(num_objects)]
    manifest = pa.table({"uri": uris, "etag": ["e"] * num_objects, "size": [1] * num_objects})
    pacsv.write_csv(manifest, str(Path(workspace.root) / "manifest.csv"))


def _simulated(archive: Store, number: int) -> InstanceRecord:
    return InstanceRecord(
        instance_id=f"{number:024x}",
        uri=archive.uri_of(f"{number // 10:07d}", f"{number:08d}.dcm"),
        etag="e",
        size_bytes=1,
        status="indexed",
        case_id=content_id(str(number // 10)),
        patient_key="p",
        series_key="s",
        num_frames=1,
        indexed_at=SIMULATED_AT,
    )


def _simulated_case(work: CaseWork) -> CaseRecord:
    return CaseRecord(
        case_id=work.case_id,
        patient_key="p",
        organ_hint=None,
        scanner=None,
        images=(),
        inputs_hash=work.inputs_hash,
        indexed_at=SIMULATED_AT,
    )


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks indexing")
    parser.add_argument("--repeats", type=int, default=3, help="of headers and end to end")
    repeats = parser.parse_args(arguments).repeats
    with local_s3() as bucket:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        speeds(bucket, repeats)
        rate(bucket, 10_000)
        ray.shutdown()
    memory()
