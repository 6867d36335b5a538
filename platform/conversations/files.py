"""Files of conversations: a JSON list, or one JSON object a line. A broken line is one broken entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sonoloop.platform.errors import ConfigError


@dataclass(frozen=True)
class RawEntry:
    """An entry as it stands: its number in the file, from 1 (of a line: the line's), and its JSON text."""

    place: int
    text: str | bytes = field(repr=False)


def file_digest(file: Path) -> str:
    """SHA-256 of the file's bytes.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as err:
        raise _unreadable(file, err) from err


def read_chunks(file: Path, size: int) -> Iterator[list[RawEntry]]:
    """The entries in their order, so many at a time. Lines are read as they are asked for, a list whole.

    Raises:
        ConfigError: the file cannot be read, or begins as a list and is none.
    """
    entries = _entries(file)
    while chunk := list(islice(entries, size)):
        yield chunk


def _entries(file: Path) -> Iterator[RawEntry]:
    try:
        with file.open("rb") as stream:
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            stream.seek(0)
            if start.startswith(b"["):
                yield from (
                    RawEntry(place, json.dumps(one)) for place, one in enumerate(_list(stream.read()), 1)
                )
                return
            for place, line in enumerate(stream, 1):
                if text := line.removeprefix(b"\xef\xbb\xbf" if place == 1 else b"").strip():
                    yield RawEntry(place, text)
    except OSError as err:
        raise _unreadable(file, err) from err
    except (ValueError, RecursionError) as err:  # the message would quote the file
        raise ConfigError(
            f"{file} begins with [ and is no JSON list ({type(err).__name__}); correct it, or write one "
            "object a line"
        ) from None


def _list(data: bytes) -> list[object]:
    found = json.loads(data.decode("utf-8-sig"))
    assert isinstance(found, list), "what begins with [ is a list, or no JSON"
    return found


def _unreadable(file: Path, err: OSError) -> ConfigError:
    return ConfigError(f"{file} cannot be read ({type(err).__name__}); name a JSON or JSONL file")
