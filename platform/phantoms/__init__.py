"""Phantom studies: simulated B-mode ultrasound with known truth, written as real DICOM.

The simulator is a teaching device for the loop, not a model of disease: what it draws follows the lexicon's
words and a few rules of acoustics, so that every word can be seen in the picture.
"""
