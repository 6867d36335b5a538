"""Bodies that are bombs, riddles or rubbish: each gets its status, and nothing is unpacked or kept."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, UltrasoundImageStorage

from served.door import COMPLETIONS, Door

pytestmark = pytest.mark.ray
MB = 2**20


def chat(content: object) -> bytes:
    message = {"role": "user", "content": content}
    return json.dumps({"model": "untrained", "messages": [message], "max_tokens": 1}).encode()


def with_image(data: bytes, kind: str = "image/png") -> bytes:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return chat([{"type": "image_url", "image_url": {"url": url}}])


def png_chunk(name: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(rows, 9))
    return b"".join((b"\x89PNG\r\n\x1a\n", header, *chunks, pixels, png_chunk(b"IEND", b"")))


def jpeg_that_says(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def deflated_dicom(num_bytes: int) -> bytes:
    dataset, meta = Dataset(), FileMetaDataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    dataset.PatientName = "Jane^Doe"
    dataset.Rows = dataset.Columns = 1000
    dataset.SamplesPerPixel, dataset.BitsAllocated = 1, 8
    dataset.PixelData = bytes(num_bytes)
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UltrasoundImageStorage, "1.2.3"
    dataset.file_meta = meta
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def zipped(num_bytes: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../etc/passwd", bytes(num_bytes))
    return stream.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "a header that says 10 gigapixels": lambda: png(100_000, 100_000),
    "144 megapixels in 140 KB": lambda: png(12_000, 12_000, rows=bytes(12_001 * 12_000)),
    "a sliver of 2 gigapixels": lambda: png(2**31 - 1, 1),
    "no pixels at all": lambda: png(0, 0),
    "500 MB of text in a chunk": lambda: png(
        64, 64, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(500 * MB), 9)), rows=bytes(65 * 64)
    ),
    "a jpeg that says 65,500 x 65,500": lambda: jpeg_that_says(65_500, 65_500),
    "a deflated dicom": lambda: deflated_dicom(300 * MB),
    "a zip": lambda: zipped(300 * MB),
    "nothing": lambda: b"",
    "half a png": lambda: png(64, 64, rows=bytes(65 * 64))[:60],
}


@cache
def picture(name: str) -> bytes:
    """Made when the first test wants it: bombs take seconds to make, and every process collects this file."""
    return PICTURES[name]()


@cache
def packed() -> bytes:
    """500 MB of nothing, packed."""
    return gzip.compress(bytes(500 * MB), 1)


@pytest.mark.parametrize("name", PICTURES)
def test_a_bomb_for_a_picture_is_refused_before_it_goes_off(door: Door, name: str) -> None:
    answer = door.post(with_image(picture(name)))
    code = answer.json()["error"]["code"]
    assert (answer.status_code, code in {"invalid_image", "image_too_large"}) == (400, True)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_a_packed_body_is_not_unpacked(door: Door, encoding: str) -> None:
    answer = door.post(packed(), **{"Content-Encoding": encoding})
    assert answer.status_code == 415


ODD_BODIES = {
    "nothing": b"",
    "not json": b"Jane Doe",
    "cut off": chat("x")[:-5],
    "100,000 lists deep": b'{"model":"untrained","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of a million digits": chat("x").replace(b'"max_tokens": 1', b'"max_tokens": ' + b"9" * MB),
    "a huge exponent": chat("x").replace(b'"max_tokens": 1', b'"temperature": 1e999999999'),
    "not a number": chat("x").replace(b'"max_tokens": 1', b'"temperature": NaN'),
    "bytes that are no text": chat("x").replace(b'"x"', b'"\xff\xfe"'),
    "half a surrogate": chat("x").replace(b'"x"', b'"\\ud800"'),
    "utf-16": chat("x").decode().encode("utf-16"),
    "a list": b"[]",
    "null": b"null",
    "a million fields": b"{" + b",".join(b'"%d":1' % i for i in range(MB)) + b"}",
    "half a million messages": b'{"model":"untrained","messages":['
    + b",".join([b'{"role":"user"}'] * 500_000)
    + b"]}",
    "a million lists": b'{"model":"untrained","messages":[' + b",".join([b"[]"] * MB) + b"]}",
}


@pytest.mark.parametrize("name", ODD_BODIES)
def test_a_body_that_is_no_question_is_a_bad_request(door: Door, name: str) -> None:
    assert len(ODD_BODIES[name]) < 20 * MB
    answer = door.post(ODD_BODIES[name])
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_half_a_million_good_messages_are_too_many(door: Door) -> None:
    message = b'{"role":"user","content":"x"}'
    body = b'{"model":"untrained","messages":[' + b",".join([message] * 500_000) + b"]}"
    assert door.post(body).status_code == 400


def test_of_a_field_given_twice_one_counts_for_all(door: Door) -> None:
    """Two readers of one body that differ would be a way around the one that checks."""
    twice = chat("x").replace(b'"max_tokens": 1', b'"max_tokens": 100000, "max_tokens": 1')
    assert door.post(twice).json()["usage"]["completion_tokens"] == 1
    assert door.post(twice.replace(b"100000", b"1").replace(b": 1}", b": 100000}")).status_code == 400


def parts(number: int) -> bytes:
    one = b'--b\r\nContent-Disposition: form-data; name="%d"; filename="../%d"\r\n\r\nx\r\n'
    return b"".join(one % (i, i) for i in range(number)) + b"--b--\r\n"


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/files", "/v1/drafts", "/predict", "/setup", "/webhook"])
def test_ten_thousand_parts_are_refused_wherever_they_go(door: Door, path: str) -> None:
    answer = door.post(parts(10_000), path, **{"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code in {400, 404, 413, 415}


@pytest.mark.parametrize("name", ["a deflated dicom", "a zip", "144 megapixels in 140 KB", "nothing"])
def test_a_bomb_for_an_upload_is_refused_before_it_goes_off(door: Door, name: str) -> None:
    field = b"--b\r\nContent-Disposition: form-data; name="
    form = field + b'"purpose"\r\n\r\nvision\r\n' + field + b'"file"; filename="../x"\r\n\r\n'
    body = form + picture(name) + b"\r\n--b--\r\n"
    answer = door.post(body, "/v1/files", **{"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400


@pytest.mark.parametrize("kind", ["application/dicom", "application/zip", "image/png"])
def test_a_study_comes_as_a_form_or_not_at_all(door: Door, kind: str) -> None:
    bomb = picture("a deflated dicom")
    assert door.post(bomb, "/v1/drafts", **{"Content-Type": kind}).status_code == 400


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "application/xml", "image/png", "x", "\x7f/;="],
)
def test_a_body_is_read_as_json_whatever_it_says_it_is(door: Door, kind: str) -> None:
    headers = {"Content-Type": kind}
    assert door.post(chat("x"), **headers).status_code in {200, 400}
    assert door.post(b"model=untrained&messages=x", **headers).status_code == 400


def test_a_body_without_end_is_cut_off_at_the_limit(door: Door) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65536

    assert door.post(endless()).status_code == 413
