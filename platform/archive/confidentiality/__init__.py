"""De-identified headers: the Basic Application Level Confidentiality Profile of DICOM PS3.15 Annex E."""
