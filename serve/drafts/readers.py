"""The door's side of the processes that read studies: one for each study, the next one started ahead."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import BinaryIO, cast

from sonoloop.platform.errors import ConfigError, Reason, RejectedError
from sonoloop.platform.export.config import ExportFormat
from sonoloop.platform.export.results import Result
from sonoloop.platform.identity import KEY_VARIABLE, pseudonym_key
from sonoloop.serve.config import ServeSettings
from sonoloop.serve.drafts.messages import (
    Message,
    ReadStudy,
    Refused,
    ReportWritten,
    StudyRead,
    WriteReport,
    receive,
    send,
)
from sonoloop.serve.protocol import ApiError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 10
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}


class StudyProcess:
    """One process of `sonoloop.serve.drafts.reader`. Its methods block: call them in threads.

    Args:
        settings: Limits, and how studies are read.
        environment: All that it is to know of this process's environment.
    """

    def __init__(self, settings: ServeSettings, environment: dict[str, str]) -> None:
        config = settings.serve.studies
        self._settings, self._max_bytes = settings, config.max_bytes
        limits = (str(config.reader_mib * 2**20), str(int(config.timeout_s) + 1))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sonoloop.serve.drafts.reader", *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what native code prints may quote a header
            env=environment,
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def read(self, files: Sequence[bytes]) -> tuple[StudyRead, list[bytes]]:
        """The study, and the PNGs of its case in their order.

        Raises:
            RejectedError: as of `StudyReader.read`; ``CRASHED``, reading it ended the process.
        """
        settings = self._settings
        asked = ReadStudy(
            config=settings.index,
            root=settings.workspace.rstrip("/"),
            now=datetime.now(UTC),
            max_objects=settings.serve.studies.max_files,
        )
        answer, blobs = self._ask(asked, files)
        assert isinstance(answer, StudyRead)
        return answer, blobs

    def report(self, result: Result, kind: ExportFormat) -> bytes:
        """A result of the study as a file.

        Raises:
            RejectedError: as of `report_file`; ``CRASHED``, as of `read`.
            ApiError: 501, the packages for it are not installed.
        """
        settings = self._settings
        wanted = WriteReport(
            result=result,
            format=kind,
            confidentiality=settings.export.confidentiality,
            language=settings.serve.engine.language,
        )
        answer, (file,) = self._ask(wanted)
        assert isinstance(answer, ReportWritten)
        return file

    def _ask(self, message: Message, blobs: Sequence[bytes] = ()) -> tuple[Message, list[bytes]]:
        source, target = self._process.stdout, self._process.stdin
        assert source is not None
        assert target is not None
        try:
            send(cast(BinaryIO, target), message, blobs)
            answer, answered = receive(cast(BinaryIO, source), max_bytes=4 * self._max_bytes)
        except (OSError, EOFError, ValueError) as err:
            logger.warning("a process that read a study ended (%s)", type(err).__name__)
            raise RejectedError(
                Reason.CRASHED, "reading the files took more memory or time than allowed, or failed"
            ) from None
        if isinstance(answer, Refused):
            if answer.reason is None:
                raise ApiError(HTTPStatus.NOT_IMPLEMENTED, answer.detail, code="not_installed")
            raise RejectedError(answer.reason, answer.detail)
        return answer, answered

    def end(self) -> None:
        """End it, whatever it is doing. Does not wait for more than a moment."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was not sent yet
                logger.debug("a pipe was closed with bytes in it")


class Readers:
    """Gives each study a process of its own, in turn.

    Without a pseudonym key in the environment studies are read under a key that nobody knows, and their ids
    mean nothing beyond the request.

    Args:
        settings: Limits, and how studies are read.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings, self._config = settings, settings.serve.studies
        self._free = asyncio.Semaphore(self._config.readers)
        self._num_inside = 0
        self._spares: list[StudyProcess] = []
        try:
            key, self.has_key = pseudonym_key().get_secret_value(), True
        except ConfigError:
            key, self.has_key = secrets.token_hex(32), False
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._environment = {**kept, **_ONE_THREAD, KEY_VARIABLE: key}

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places for studies; to be taken before anything of the study is read.

        Raises:
            ApiError: 429, all are taken.
        """
        most = self._config.readers + self._config.max_waiting
        if self._num_inside >= most:
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{most} studies are being read or wait already; come back in {RETRY_AFTER_S} s",
                code="overloaded",
                retry_after_s=RETRY_AFTER_S,
            )
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1

    @asynccontextmanager
    async def studied(
        self, files: Sequence[bytes]
    ) -> AsyncIterator[tuple[StudyProcess, StudyRead, list[bytes]]]:
        """The files as a fresh process read them, in turn; it is there for reports until the block ends.

        Then the next process is started, for whoever comes.

        Raises:
            RejectedError: as of `StudyProcess.read`.
        """
        process = None
        try:
            async with self._free:
                process = await asyncio.to_thread(self._next)
                study, images = await asyncio.to_thread(process.read, files)
            del files  # the largest thing here, and drafting takes long
            yield process, study, images
        finally:
            if process is not None:
                await asyncio.to_thread(process.end)
            if not self._spares:
                self._spares.append(StudyProcess(self._settings, self._environment))

    def _next(self) -> StudyProcess:
        while self._spares:
            if (spare := self._spares.pop()).is_alive:
                return spare
            spare.end()
        return StudyProcess(self._settings, self._environment)

    def close(self) -> None:
        """End the processes that wait."""
        while self._spares:
            self._spares.pop().end()
