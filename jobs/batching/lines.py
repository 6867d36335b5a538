"""A batch file as work: its requests in units, found in one pass, each read again where it is answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonoloop.platform.errors import ConfigError
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import S3Config, Store, store_of

READ_BYTES = 2**20


@dataclass(frozen=True)
class Place:
    """An object or file that a person named."""

    store: Store
    name: str

    @classmethod
    def of(cls, named: str, s3: S3Config) -> Place:
        """Of a path or an ``s3://`` URI.

        Raises:
            ConfigError: it names a folder.
            StorageError: no valid address.
        """
        folder, _, name = (named if "://" in named else str(Path(named).absolute())).rpartition("/")
        if not name:
            raise ConfigError(f"expected a file, found the folder {named}")
        return cls(store_of(folder, s3), name)

    @property
    def path(self) -> str:
        """For the store's file system."""
        return self.store.path(self.name)


@dataclass(frozen=True)
class Line:
    """One request as it stands in the file.

    Attributes:
        number: In the file, from 1, as an editor counts.
        text: JSON, or what should be.
    """

    number: int
    text: bytes

    @property
    def case_id(self) -> str:
        """What the guard of bad rows calls it."""
        return str(self.number)

    @property
    def custom_id(self) -> str | None:
        """The asker's name for it; None where the line does not say, or no UTF-8 can write it."""
        try:
            found: Any = json.loads(self.text)
            given = found.get("custom_id") if isinstance(found, dict) else None
            return given if isinstance(given, str) and given.encode() else None
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True)
class Span:
    """Consecutive lines of the file: where they begin in bytes, how many bytes, which line is the first."""

    unit: int
    offset: int
    length: int
    first_line: int

    @property
    def name(self) -> str:
        """Of its file of answers: the same lines have the same, however else the file is cut."""
        return f"{self.offset:015}-{self.length}.jsonl"


@dataclass(frozen=True)
class Survey:
    """A batch file at a glance.

    Attributes:
        digest: SHA-256 of its bytes.
        num_lines: Requests, good and bad; blank lines do not count.
        spans: All of them, in order.
    """

    digest: str
    num_lines: int
    spans: tuple[Span, ...]


def survey(place: Place, lines_per_unit: int) -> Survey:
    """Read the file once, a line at a time.

    Raises:
        ConfigError: no such file, nothing in it, or two requests of the same ``custom_id``.
        StorageError: it cannot be read.
    """
    digest, seen, spans = hashlib.sha256(), dict[bytes, int](), list[Span]()
    begin = end = first = in_unit = num_lines = 0
    for number, raw in enumerate(_raw_lines(place), start=1):
        digest.update(raw)
        if not in_unit:
            begin, first = end, number
        end += len(raw)
        if raw.strip():
            _refuse_second(Line(number, raw), seen)
            num_lines, in_unit = num_lines + 1, in_unit + 1
        if in_unit == lines_per_unit:
            spans.append(Span(len(spans), begin, end - begin, first))
            in_unit = 0
    if in_unit:
        spans.append(Span(len(spans), begin, end - begin, first))
    if not num_lines:
        raise ConfigError(f"the batch file {place.name} is empty; it holds one JSON request per line")
    return Survey(digest.hexdigest(), num_lines, tuple(spans))


def read_span(place: Place, span: Span) -> list[Line]:
    """The lines of a span that are not blank.

    Raises:
        FileNotFoundError: the file is gone.
        StorageError: it cannot be read.
    """
    with storage_errors(place.store.uri), place.store.fs.open_input_file(place.path) as file:
        file.seek(span.offset)
        data = file.read(span.length)
    return list(_filled(enumerate(data.split(b"\n"), start=span.first_line)))


def _filled(numbered: Iterable[tuple[int, bytes]]) -> Iterator[Line]:
    return (Line(number, text) for number, text in numbered if text.strip())


def _raw_lines(place: Place) -> Iterator[bytes]:
    """Lines with their ends; only ``\\n`` ends one, since JSON text may hold Unicode's others."""
    try:
        with storage_errors(place.store.uri), place.store.fs.open_input_stream(place.path) as stream:
            rest = b""
            while piece := stream.read(READ_BYTES):
                *whole, rest = (rest + piece).split(b"\n")
                yield from (line + b"\n" for line in whole)
            if rest:
                yield rest
    except FileNotFoundError as err:
        raise ConfigError(
            f"no batch file at {place.store.uri_of(place.name)}; it holds one JSON request per line"
        ) from err


def _refuse_second(line: Line, seen: dict[bytes, int]) -> None:
    given = line.custom_id
    if given is None:
        return
    first = seen.setdefault(hashlib.sha256(given.encode()).digest(), line.number)
    if first != line.number:
        raise ConfigError(
            f"lines {first} and {line.number} of the batch file have the same custom_id, by which answers "
            "are found; give each request its own. Nothing was answered"
        )
