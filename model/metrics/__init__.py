"""Figures of quality, each with its definition: drafts against references, texts, labels, boxes."""

from sonoloop.model.metrics.boxes import iou
from sonoloop.model.metrics.drafts import Described, Scores, entity_f1, num_edits, score

__all__ = ["Described", "Scores", "entity_f1", "iou", "num_edits", "score"]
