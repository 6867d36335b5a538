"""A case's report as a file, with what it needs of its instances' headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, SecretStr
from pydicom.dataset import Dataset

from sonoloop.platform.archive.confidentiality.config import ConfidentialityConfig
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.export.config import ExportFormat
from sonoloop.platform.export.fhir import bundle_json
from sonoloop.platform.export.headers import clean_header
from sonoloop.platform.export.results import Result
from sonoloop.platform.export.sr import Language, structured_report

Opener: TypeAlias = Callable[[InstanceRecord], AbstractContextManager[Instance]]


class ReportWork(BaseModel):
    """A result and the instances that its images are of."""

    model_config = ConfigDict(frozen=True)
    result: Result
    instances: tuple[InstanceRecord, ...]

    @classmethod
    def of(cls, result: Result, rows: Mapping[str, InstanceRecord]) -> ReportWork:
        """The work on a result, its instances in the order of the case's images.

        Args:
            result: What to report.
            rows: Instances by id; those that are missing are left out.
        """
        ids = dict.fromkeys(image.instance_id for image in result.case.images)
        return cls(result=result, instances=tuple(rows[one] for one in ids if one in rows))


def report_file(
    work: ReportWork,
    kind: ExportFormat,
    open_row: Opener,
    config: ConfidentialityConfig,
    key: SecretStr,
    *,
    language: Language,
) -> bytes:
    """The report as FHIR JSON or as a DICOM SR file.

    Args:
        work: What to report.
        kind: FHIR or SR.
        open_row: Opens an instance.
        config: What a header keeps.
        key: Of the pseudonyms.
        language: Of findings and impression.

    Raises:
        RejectedError: an instance cannot be read, a text holds an identifier of its header, there is no
            DICOM instance for a structured report to refer to, or the format has no place for a value.
    """
    headers = _headers(work, open_row, config, key)
    is_sr = kind is ExportFormat.SR
    if is_sr and not headers:
        raise RejectedError(Reason.NOT_DICOM, "a structured report refers to DICOM; the case has pictures")
    try:
        if is_sr:
            return structured_report(work.result, headers, key, language=language)
        return bundle_json(work.result, headers, language=language).encode()
    except (ValueError, TypeError, AttributeError) as err:  # it may quote the value
        raise RejectedError(
            Reason.UNREADABLE, f"a value of the header or the result fits no {kind} ({type(err).__name__})"
        ) from None


def _headers(
    work: ReportWork, open_row: Opener, config: ConfidentialityConfig, key: SecretStr
) -> Mapping[str, Dataset]:
    """De-identified headers of the DICOM instances, in the order of the case's images."""
    headers = {}
    for row in work.instances:
        with open_row(row) as instance:
            if instance.dataset is None:
                continue
            header = clean_header(instance, config, key)
        if any(map(header.identifiers.found_in, (work.result.findings, work.result.impression))):
            raise RejectedError(
                Reason.PHI_SUSPECTED, "findings or impression hold a name or number of the header"
            )
        headers[row.instance_id] = header.dataset
    return headers
