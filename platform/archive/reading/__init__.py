"""From an object's bytes to frames: DICOM, pictures, video, arrays. Decoding is done by libraries."""
