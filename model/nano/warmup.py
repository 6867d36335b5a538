"""Direct heads over the vision tower: what nano's first training stage learns from.

Shape letters: B images, M merged patches per image, D model width, F entity fields, H x W pixels.

A caption gives a few bits per hundred tokens; a head per entity field, a box and a lesion map give every
image feature a gradient. The heads are thrown away; the tower's output, after the merger, is what the decoder
reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False, slots=True)
class DirectTargets:
    """What the heads should find.

    Attributes:
        labels: ``(B, F)`` int64, class per field or ``UNKNOWN``.
        boxes: ``(B, 4)`` float32, left, top, right, bottom in 0..1; all zero without a lesion.
        cover: ``(B, M)`` float32, the share of each merged patch that the box covers, row by row.
        place: ``(M, 2)`` float32, centre of each merged patch, column and row in 0..1.
    """

    labels: Tensor
    boxes: Tensor
    cover: Tensor
    place: Tensor


def direct_targets(labels_BF: Tensor, boxes_B4: Tensor, rows: int, columns: int) -> DirectTargets:
    """Targets on a grid of merged patches.

    Args:
        labels_BF: Class per field or ``UNKNOWN``.
        boxes_B4: Corners in 0..1; all zero without a lesion.
        rows: Merged patches from top to bottom.
        columns: Merged patches from left to right.
    """

    def overlap(low_B: Tensor, high_B: Tensor, count: int) -> Tensor:
        edges = torch.arange(count + 1) / count
        inside = torch.minimum(high_B[:, None], edges[1:]) - torch.maximum(low_B[:, None], edges[:-1])
        return inside.clamp(min=0) * count

    across = overlap(boxes_B4[:, 0], boxes_B4[:, 2], columns)
    down = overlap(boxes_B4[:, 1], boxes_B4[:, 3], rows)
    place = torch.cartesian_prod((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns)
    return DirectTargets(
        labels_BF, boxes_B4, (down[:, :, None] * across[:, None, :]).flatten(1), place.flip(-1)
    )


class DirectHeads(nn.Module):
    """Entity fields from the whole image and from the lesion's patches; per patch lesion, place and box.

    Args:
        width: D.
        sizes: Classes per field.
    """

    def __init__(self, width: int, sizes: list[int]) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(len(sizes), width) / math.sqrt(width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.whole = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.lesion = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.patch = nn.Linear(width, 7)

    def loss(self, x_BMD: Tensor, targets: DirectTargets) -> Tensor:
        """Scalar loss of the image features ``(B, M, D)``."""
        x_BMD = self.norm(x_BMD)
        return (
            self._whole_loss(x_BMD, targets)
            + self._lesion_loss(x_BMD, targets)
            + self._patch_loss(x_BMD, targets)
        )

    def whole_logits(self, x_BMD: Tensor) -> list[Tensor]:
        """Logits per field ``(B, classes)``, each field with its own attention over normalised features."""
        scores_BFM = torch.einsum("fd,bmd->bfm", self.query, self.key(x_BMD)) / math.sqrt(x_BMD.shape[-1])
        pooled_BFD = scores_BFM.softmax(dim=-1) @ self.value(x_BMD)
        return [head(pooled_BFD[:, index]) for index, head in enumerate(self.whole)]

    def _whole_loss(self, x_BMD: Tensor, targets: DirectTargets) -> Tensor:
        return _field_loss(self.whole_logits(x_BMD), targets.labels)

    def _lesion_loss(self, x_BMD: Tensor, targets: DirectTargets) -> Tensor:
        has_box = targets.boxes[:, 2] > 0
        weights_BM = targets.cover[has_box]
        weights_BM = weights_BM / weights_BM.sum(dim=1, keepdim=True).clamp(min=1e-6)
        pooled_BD = (weights_BM[:, None, :] @ x_BMD[has_box]).squeeze(1)
        return _field_loss([head(pooled_BD) for head in self.lesion], targets.labels[has_box])

    def _patch_loss(self, x_BMD: Tensor, targets: DirectTargets) -> Tensor:
        found_BM, place_BM2, box_BM4 = self.patch(x_BMD).split((1, 2, 4), dim=-1)
        weights_BM = targets.cover
        loss = 2.0 * functional.binary_cross_entropy_with_logits(found_BM.squeeze(-1), weights_BM)
        loss = loss + 2.0 * (place_BM2 - targets.place).abs().mean()
        off_BM = (box_BM4 - targets.boxes[:, None]).abs().mean(dim=-1)
        corners = (off_BM * weights_BM).sum() / weights_BM.sum().clamp(min=1e-6)
        total: Tensor = loss + 5.0 * corners
        return total


def _field_loss(logits: list[Tensor], labels_BF: Tensor) -> Tensor:
    """Half the sum over fields of the mean cross-entropy where the field applies."""
    loss = torch.zeros(())
    for index, field_logits in enumerate(logits):
        labels_B = labels_BF[:, index]
        if bool((labels_B != UNKNOWN).any()):
            loss = loss + 0.5 * functional.cross_entropy(field_logits, labels_B, ignore_index=UNKNOWN)
    return loss


def smooth_patch_embedding(projection: nn.Conv3d) -> None:
    """Start the patch embedding at the lowest spatial frequencies of the discrete cosine transform.

    Random filters mostly see speckle; these see level, slopes and stripes. The mean is scaled down to the
    size of the others, and the filters are spread over the equal grey channels and the doubled frame.
    """
    width, channels, frames, side, _ = projection.weight.shape
    steps = torch.arange(side) + 0.5
    cosines = torch.cos(math.pi / side * steps[None] * torch.arange(side)[:, None]) * math.sqrt(2 / side)
    cosines[0] /= math.sqrt(2)
    order = sorted(((u, v) for u in range(side) for v in range(side)), key=lambda uv: (uv[0] + uv[1], uv))
    with torch.no_grad():
        for index, (u, v) in enumerate(order[:width]):
            scale = (0.15 if index == 0 else 0.5) / (channels * frames)
            projection.weight[index] = scale * cosines[u][:, None] * cosines[v][None, :]
