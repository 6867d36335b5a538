"""An archive's listing comes apart into parts that together are the whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sonoloop.platform.archive.objects import listing
from sonoloop.platform.workspace import Store


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "OBJECTS_PER_PAGE", 7)


def listed(archive: Store) -> Iterator[str]:
    for part in listing.parts_of(archive):
        for page in part.pages():
            assert len(page) <= 7
            yield from (info.uri for info in page)


def write(archive: Store, names: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: archive.write_bytes(name.encode(), name), names))


SHAPES = {
    "one page": ["a", "b/c"],
    "studies in folders": [
        f"{study}/{series}/{n}" for study in "abcdef" for series in "xy" for n in range(4)
    ],
    "one flat folder": [f"flat/IMG{n:04d}" for n in range(0, 900, 9)],
    "flat at the root": [f"{n:x}" for n in range(60)],
    "wide and deep": [f"1.2.840.{n}/{n % 3}/{m}" for n in range(25) for m in range(2)],
    "awkward names": [f"a{c}{d}" for c in " !+-.&=%éß日~" for d in ("", "x", "!y", "z/n")],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parts_together_list_every_object_once(s3_archive: Store, shape: str) -> None:
    names = SHAPES[shape]
    write(s3_archive, names)
    Store(f"{s3_archive.uri}-2").write_bytes(b"1", "neighbour")
    found = Counter(listed(s3_archive))
    whole = Counter(info.uri for info in s3_archive.list_objects())
    assert found == whole == Counter(s3_archive.uri_of(name) for name in names)


def test_a_large_listing_comes_in_many_parts_of_like_size(s3_archive: Store) -> None:
    write(s3_archive, [f"flat/{random.Random(n).randbytes(4).hex()}" for n in range(200)])
    sizes = [sum(map(len, part.pages())) for part in listing.parts_of(s3_archive)]
    assert sum(sizes) == 200
    assert 10 <= len(sizes) <= listing.NUM_PARTS
    assert max(sizes) <= 40


def test_a_folder_is_one_part(tmp_path: Path) -> None:
    archive = Store(str(tmp_path))
    write(archive, ["a/b", "a-b", "c"])
    assert sorted(listed(archive)) == sorted(archive.uri_of(name) for name in ("a/b", "a-b", "c"))
    assert len(listing.parts_of(archive)) == 1
