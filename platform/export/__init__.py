"""What leaves the workspace: cleaned DICOM, DICOM SR, FHIR, COCO and JSON lines, all without identifiers."""
