"""One unit at a time: an instance as cleaned DICOM, a case as a report; in any task, any number of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sonoloop.platform.archive.archived import ArchivedInstances
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.quarantine import Release, release_of
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.export.config import ExportConfig, ExportFormat
from sonoloop.platform.export.dicom import cleaned_dicom, save
from sonoloop.platform.export.output import writing
from sonoloop.platform.export.report import ReportWork, report_file
from sonoloop.platform.export.sr import Language
from sonoloop.platform.workspace import Store


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
        case_id = work.result.case.case_id
        place = ("fhir", f"{case_id}.json") if kind is ExportFormat.FHIR else ("sr", f"{case_id}.dcm")
        report = report_file(
            work,
            kind,
            self.archived.open,
            self.config.confidentiality,
            self.archived.key,
            language=self.language,
        )
        self.out.write_bytes(report, *place)
