"""A process that reads one study, and ends: ``python -m sonoloop.serve.drafts.reader <bytes> <seconds>``.

Decoders are native code and the files are anybody's. So they are opened in a process that holds no key but
the one of the pseudonyms, may not write any file, and has a limit of memory and of processor time. It may
hang or die without harm to the door, and what it held is gone with it.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from typing import BinaryIO

from sonoloop.platform.archive.deidentify.ocr import text_reader
from sonoloop.platform.archive.received import ReceivedStudy, StudyReader
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.serve.drafts.messages import (
    ReadStudy,
    Refused,
    ReportWritten,
    StudyRead,
    WriteReport,
    receive,
    send,
)


def confine(max_bytes: int, max_seconds: int) -> None:
    """Limit this process for good: memory, processor time, no file written, no dump of its memory."""
    for kind, most in (
        (resource.RLIMIT_AS, max_bytes),
        (resource.RLIMIT_CPU, max_seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
    os.nice(5)  # the door and the model go first


def _private_output() -> BinaryIO:
    """The pipe to the door, out of reach of libraries that print."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    return pipe


def serve_study(source: BinaryIO, target: BinaryIO, *, max_bytes: int) -> None:
    """Read the study that comes, then write reports of it until the source ends.

    Raises:
        EOFError: the source ended.
        OSError: nobody reads what is answered.
    """
    asked, files = receive(source, max_bytes=max_bytes)
    assert isinstance(asked, ReadStudy)
    reader = StudyReader(files, asked.config, pseudonym_key(), root=asked.root, now=asked.now)
    try:
        study = reader.read(max_objects=asked.max_objects)
    except RejectedError as err:
        send(target, Refused(reason=err.reason, detail=err.detail))
        return
    message = StudyRead(
        case=study.made.case,
        frames=study.made.frames,
        instances=study.instances,
        others=study.others,
        num_spared=len(study.made.spared),
    )
    send(target, message, [study.images[image.image_key] for image in study.made.case.images])
    while True:
        wanted, _ = receive(source, max_bytes=0)
        assert isinstance(wanted, WriteReport)
        _answer(target, wanted, reader, study)


def _answer(target: BinaryIO, wanted: WriteReport, reader: StudyReader, study: ReceivedStudy) -> None:
    try:
        from sonoloop.platform.export.report import ReportWork, report_file
    except ImportError as err:
        send(target, Refused(reason=None, detail=f"{err.name} is missing here; it is of the extra export"))
        return
    work = ReportWork.of(wanted.result, {row.instance_id: row for row in study.instances})
    try:
        file = report_file(
            work,
            wanted.format,
            reader.open,
            wanted.confidentiality,
            pseudonym_key(),
            language=wanted.language,
        )
    except RejectedError as err:
        send(target, Refused(reason=err.reason, detail=err.detail))
        return
    send(target, ReportWritten(), [file])


def main() -> None:
    """Serve one study."""
    max_bytes, max_seconds = map(int, sys.argv[1:])
    confine(max_bytes, max_seconds)
    target = _private_output()
    text_reader()  # loaded while nobody waits
    with suppress(EOFError, BrokenPipeError):  # the door needs no more
        serve_study(sys.stdin.buffer, target, max_bytes=max_bytes)


if __name__ == "__main__":
    main()
