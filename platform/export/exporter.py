"""One unit at a time: an instance as cleaned DICOM, a case as a report; in any task, any number of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from pydicom.dataset import Dataset

from sonoloop.platform.archive.archived import ArchivedInstances
from sonoloop.platform.archive.deidentify.clean import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import Release, release_of
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.export.config import ExportConfig, ExportFormat
from sonoloop.platform.export.dicom import cleaned_dicom, save
from sonoloop.platform.export.fhir import bundle_json
from sonoloop.platform.export.headers import clean_header
from sonoloop.platform.export.output import writing
from sonoloop.platform.export.results import Result
from sonoloop.platform.export.sr import Language, structured_report
from sonoloop.platform.workspace import Store


class ReportWork(BaseModel):
    """A result and the instances that its images are of."""

    model_config = ConfigDict(frozen=True)
    result: Result
    instances: tuple[InstanceRecord, ...]


@dataclass(frozen=True)
class Exporter:
    """Writes units of one archive to one place."""

    archived: ArchivedInstances
    out: Store
    config: ExportConfig
    deidentify: DeidentifyConfig
    language: Language
    releases: Mapping[str, Release]

    def write_instance(self, row: InstanceRecord) -> None:
        """Write ``dicom/<study>/<instance>.dcm``, both UIDs replaced.

        Raises:
            RejectedError: it cannot be read, or not be shown clean.
            StorageError: archive or target cannot be had.
        """
        release = release_of(self.releases, row.instance_id, row.etag)
        with (
            self.archived.open(row) as instance,
            cleaned_dicom(instance, self.config, self.deidentify, self.archived.key, release) as dataset,
        ):
            place = ("dicom", str(dataset.StudyInstanceUID), f"{dataset.SOPInstanceUID}.dcm")
            with writing(self.out, *place) as file:
                save(dataset, file)

    def write_report(self, work: ReportWork, kind: ExportFormat) -> None:
        """Write ``sr/<case>.dcm`` or ``fhir/<case>.json``.

        Raises:
            RejectedError: an instance cannot be read, or a text holds an identifier of its header.
            StorageError: archive or target cannot be had.
        """
        headers = self._headers(work)
        case_id = work.result.case.case_id
        if kind is ExportFormat.FHIR:
            text = bundle_json(work.result, headers, language=self.language)
            self.out.write_bytes(text.encode(), "fhir", f"{case_id}.json")
            return
        if not headers:
            raise RejectedError(
                Reason.NOT_DICOM, "a structured report refers to DICOM; the case has pictures"
            )
        try:
            report = structured_report(work.result, headers, self.archived.key, language=self.language)
        except (ValueError, TypeError, AttributeError) as err:  # highdicom refuses values of the headers
            raise RejectedError(
                Reason.UNREADABLE, f"the header's values fit no structured report ({type(err).__name__})"
            ) from None
        self.out.write_bytes(report, "sr", f"{case_id}.dcm")

    def _headers(self, work: ReportWork) -> Mapping[str, Dataset]:
        """De-identified headers of the DICOM instances, in the order of the case's images."""
        headers = {}
        for row in work.instances:
            with self.archived.open(row) as instance:
                if instance.dataset is None:
                    continue
                header = clean_header(instance, self.config.confidentiality, self.archived.key)
            if any(map(header.identifiers.found_in, (work.result.findings, work.result.impression))):
                raise RejectedError(
                    Reason.PHI_SUSPECTED, "findings or impression hold a name or number of the header"
                )
            headers[row.instance_id] = header.dataset
        return headers
