"""Direct heads over the vision tower: what nano's first training stage learns from.

Shape letters: B images, M merged patches per image, D model width, F entity fields, H x W pixels.

A caption gives a few bits per hundred tokens; a head per entity field, a box and a lesion map give every
image feature a gradient. The heads are thrown away; the tower's output, after the merger, is what the decoder
reads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sonoloop.platform.lexicon import Entities, Organ, field_values, fields

UNKNOWN = -1
"""Label of a field that does not apply to the image."""


class FieldIndex:
    """Entity fields of some organs as classes to tell: ``organ`` first, then each organ's own fields."""

    def __init__(self, organs: tuple[Organ, ...]) -> None:
        self.organs = organs
        self.keys: list[tuple[Organ | None, str]] = [(None, "organ")]
        self.keys += [(organ, name) for organ in organs for name in fields(organ)[1:]]
        self._values: list[tuple[str, ...]] = [organs]
        self._values += [field_values(organ, name) for organ, name in self.keys[1:] if organ is not None]

    def sizes(self) -> list[int]:
        """Number of classes per field."""
        return [len(values) for values in self._values]

    def labels(self, entities: Entities) -> list[int]:
        """Class per field, ``UNKNOWN`` where the field belongs to another organ or does not apply."""
        flat = entities.flat()
        labels = [self.organs.index(entities.organ)]
        for (organ, name), values in zip(self.keys[1:], self._values[1:], strict=True):
            applies = organ == entities.organ and name in flat
            labels.append(values.index(flat[name]) if applies else UNKNOWN)
        return labels


class DirectHeads(nn.Module):
    """One query per field and one for the box pool the image's features; a linear map scores each patch.

    Args:
        width: D.
        sizes: Classes per field.
    """

    def __init__(self, width: int, sizes: list[int]) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(sizes) + 1, width) / math.sqrt(width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.fields = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        self.patch = nn.Linear(width, 1)

    def forward(self, x_BMD: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Logits ``(B, classes)`` per field, box corners ``(B, 4)`` in 0..1, patch logits ``(B, M)``."""
        x_BMD = self.norm(x_BMD)
        scores_BFM = torch.einsum("fd,bmd->bfm", self.query, self.key(x_BMD)) / math.sqrt(x_BMD.shape[-1])
        pooled_BFD = scores_BFM.softmax(dim=-1) @ self.value(x_BMD)
        logits = [head(pooled_BFD[:, index]) for index, head in enumerate(self.fields)]
        return logits, self.box(pooled_BFD[:, -1]).sigmoid(), self.patch(x_BMD).squeeze(-1)


def patch_targets(boxes_B4: Tensor, rows: int, columns: int) -> Tensor:
    """The share of each merged patch that a box covers.

    Args:
        boxes_B4: Left, top, right, bottom in 0..1; all zero without a lesion.
        rows: Merged patches from top to bottom.
        columns: Merged patches from left to right.

    Returns:
        ``(B, rows * columns)`` float32, 0..1, row by row.
    """

    def overlap(low_B: Tensor, high_B: Tensor, count: int) -> Tensor:
        edges = torch.arange(count + 1) / count
        inside = torch.minimum(high_B[:, None], edges[1:]) - torch.maximum(low_B[:, None], edges[:-1])
        return inside.clamp(min=0) * count

    across = overlap(boxes_B4[:, 0], boxes_B4[:, 2], columns)
    down = overlap(boxes_B4[:, 1], boxes_B4[:, 3], rows)
    return (down[:, :, None] * across[:, None, :]).flatten(1)


def direct_loss(
    outputs: tuple[list[Tensor], Tensor, Tensor], labels_BF: Tensor, boxes_B4: Tensor, cover_BM: Tensor
) -> Tensor:
    """Cross-entropy per field that applies, L1 of the box where there is one, cross-entropy of the map."""
    logits, box_B4, patch_BM = outputs
    loss = functional.binary_cross_entropy_with_logits(patch_BM, cover_BM)
    for index, field_logits in enumerate(logits):
        if bool((labels_BF[:, index] != UNKNOWN).any()):
            loss = loss + 0.5 * functional.cross_entropy(
                field_logits, labels_BF[:, index], ignore_index=UNKNOWN
            )
    has_box = boxes_B4[:, 2] > 0
    if bool(has_box.any()):
        loss = loss + 5.0 * functional.l1_loss(box_B4[has_box], boxes_B4[has_box])
    return loss
