"""Members of zip and tar archives, and the archives that are traps."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import picture, speckle, ultrasound

from sonoloop.platform.archive.reading import members
from sonoloop.platform.archive.reading.members import (
    Member,
    is_container,
    iter_members,
    open_member,
)
from sonoloop.platform.archive.reading.open import SNIFFED_BYTES, open_instance
from sonoloop.platform.errors import Reason, RejectedError

FILES = {
    "a/one.dcm": ultrasound(speckle(1)),
    "a/two.png": picture(2),
    "../../three.dcm": ultrasound(speckle(3)),
}


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.mkdir("a")
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        archive.addfile(_entry("a", tarfile.DIRTYPE))
        archive.addfile(_entry("a/link", tarfile.SYMTYPE, "/etc/passwd"))
        archive.addfile(_entry("a/device", tarfile.CHRTYPE))
        for name, data in files.items():
            info = _entry(name, tarfile.REGTYPE)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


ARCHIVES: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "a.zip": zipped,
    "stored.zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "a.tar": tarred,
    "a.tar.gz": lambda files: tarred(files, "w:gz"),
}


def refusal(work: Callable[[], object]) -> RejectedError:
    with pytest.raises(RejectedError) as refused:
        work()
    return refused.value


def _read_all(data: bytes) -> None:
    for member, opener in iter_members(io.BytesIO(data)):
        open_instance(opener(), name=member.path).frame(0)


def listed(data: bytes) -> list[Member]:
    return [member for member, _ in iter_members(io.BytesIO(data))]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_are_listed_and_read_where_they_lie(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ARCHIVES[kind](FILES)
    assert is_container(data[:SNIFFED_BYTES], kind)
    assert {member.path: member.size_bytes for member in listed(data)} == {
        p: len(d) for p, d in FILES.items()
    }
    for path, expected in FILES.items():
        member = open_member(io.BytesIO(data), path)
        assert member.read() == expected
        member.seek(-5, io.SEEK_END)
        assert member.read() == expected[-5:]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ARCHIVES)
def test_one_pass_over_an_archive_opens_members_in_any_order(kind: str) -> None:
    pairs = list(iter_members(io.BytesIO(ARCHIVES[kind](FILES))))
    for member, opener in [*pairs, *reversed(pairs)]:
        assert opener().read() == FILES[member.path]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_member_is_an_instance_and_its_archive_is_none(kind: str) -> None:
    data = ARCHIVES[kind](FILES)
    instance = open_instance(open_member(io.BytesIO(data), "a/one.dcm"), name=f"{kind}!/a/one.dcm")
    np.testing.assert_array_equal(instance.frame(0), speckle(1))
    refused = refusal(lambda: open_instance(io.BytesIO(data), name=kind))
    assert refused.reason == Reason.NOT_AN_IMAGE


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_fingerprint_stays_with_the_content_and_changes_with_it(kind: str) -> None:
    changed = {**FILES, "a/one.dcm": ultrasound(speckle(9)) + b"\0"}
    before, again, after = (
        {member.path: member.fingerprint for member in listed(ARCHIVES[kind](files))}
        for files in (FILES, dict(reversed(FILES.items())), changed)
    )
    assert before == again
    assert {path for path in before if before[path] != after[path]} == {"a/one.dcm"}


def test_an_archive_within_an_archive_is_refused() -> None:
    inner = zipped(FILES)
    outer = io.BytesIO(zipped({"inner.zip": inner}))
    refused = refusal(lambda: open_instance(open_member(outer, "inner.zip"), name="a.zip!/inner.zip"))
    assert refused.reason == Reason.NOT_AN_IMAGE


def test_of_two_members_with_one_path_the_last_counts() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"last")
    assert open_member(buffer, "a").read() == b"last"


def test_an_encrypted_member_is_listed_and_refused() -> None:
    data = bytearray(zipped(FILES))
    for start, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.rindex(start)
        data[place + flags] |= 1
    path = listed(bytes(data))[-1].path
    assert refusal(lambda: open_member(io.BytesIO(data), path)).reason == Reason.UNREADABLE
    assert open_member(io.BytesIO(data), "a/one.dcm").read() == FILES["a/one.dcm"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method: int) -> None:
    data = zipped(FILES, method)
    assert refusal(lambda: open_member(io.BytesIO(data), "a/one.dcm")).reason == Reason.UNREADABLE


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_bomb_is_refused_before_it_goes_off(kind: str) -> None:
    data = ARCHIVES[kind]({"bomb": bytes(64 * 2**20)})

    def opened() -> None:
        open_member(io.BytesIO(data), "bomb")

    assert refusal(opened).reason == Reason.TOO_LARGE


def test_a_gzip_bomb_in_the_form_of_a_tar_is_refused_while_it_is_listed() -> None:
    info = _entry("bomb", tarfile.REGTYPE)
    info.size = 2**40
    compressor = zlib.compressobj(9, wbits=31)
    data = compressor.compress(info.tobuf() + bytes(2**20)) + compressor.flush()
    assert refusal(lambda: listed(data)).reason == Reason.TOO_LARGE


def test_a_zip_that_claims_too_much_in_all_or_lies_over_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = zipped({str(number): bytes(2_000) for number in range(20)})
    with monkeypatch.context() as patch:
        patch.setattr(members, "MAX_TOTAL_BYTES", 30_000)
        assert refusal(lambda: listed(data)).reason == Reason.TOO_LARGE
    with monkeypatch.context() as patch:
        patch.setattr(members, "MAX_MEMBERS", 10)
        assert refusal(lambda: listed(data)).reason == Reason.TOO_LARGE
        tar = tarred({str(number): b"" for number in range(20)})
        assert refusal(lambda: listed(tar)).reason == Reason.TOO_LARGE
    over = bytearray(zipped({"a": np.random.default_rng(0).bytes(5_000)}, zipfile.ZIP_STORED))
    place = over.rindex(b"PK\x01\x02")
    over[place + 20 : place + 28] = (10**6).to_bytes(4, "little") * 2
    assert refusal(lambda: listed(bytes(over))).reason == Reason.TOO_LARGE


def test_a_directory_that_claims_gigabytes_is_not_read() -> None:
    data = bytearray(zipped(FILES))
    place = data.rindex(b"PK\x05\x06")
    data[place + 12 : place + 16] = (2**31).to_bytes(4, "little")
    assert refusal(lambda: listed(bytes(data))).reason in (Reason.TOO_LARGE, Reason.UNREADABLE)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_broken_archive_is_refused_without_a_name_from_inside(kind: str) -> None:
    data = ARCHIVES[kind]({"ZIMMERMANN/one.dcm": FILES["a/one.dcm"]})
    for broken in (data[: len(data) // 2], data[:600], data[:40]):
        refused = refusal(lambda broken=broken: _read_all(broken))
        assert "ZIMMERMANN" not in str(refused)
    assert "x" not in {member.path for member in listed(data)}
    assert refusal(lambda: open_member(io.BytesIO(data), "x")).reason == Reason.UNREADABLE


def test_other_starts_are_no_containers() -> None:
    assert not is_container(picture(1)[:SNIFFED_BYTES], "a.png")
    assert not is_container(ultrasound(speckle())[:SNIFFED_BYTES], "a.zip")
    assert not is_container(zlib.compress(b"text"), "a.gz")
    assert is_container(tarred(FILES, "w:gz")[:SNIFFED_BYTES], "without an ending")
