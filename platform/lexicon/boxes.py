"""Lesion boxes, and the grid of whole percent in which a model writes them."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

BOX_GRID = 100
"""Boxes are written as whole percent of the image's width and height."""
MAX_BOXES = 4


class LesionBox(BaseModel):
    """A lesion's box on one image of a case, in fractions of the image (0..1, origin top left).

    Raises:
        ValidationError: the box leaves the image or has no area.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_index: int = Field(ge=0, description="index into the case's images, from 0")
    x: float = Field(ge=0, le=1, description="left edge, fraction of width")
    y: float = Field(ge=0, le=1, description="top edge, fraction of height")
    width: float = Field(gt=0, le=1, description="fraction of image width")
    height: float = Field(gt=0, le=1, description="fraction of image height")

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.x + self.width > 1 + 1e-6 or self.y + self.height > 1 + 1e-6:
            raise ValueError("the box leaves the image")
        return self

    def to_grid(self) -> list[int]:
        """``[image_index, left, top, right, bottom]``, edges in whole percent (0..100)."""
        edges = (self.x, self.y, self.x + self.width, self.y + self.height)
        return [self.image_index, *(round(edge * BOX_GRID) for edge in edges)]

    @classmethod
    def from_grid(cls, cell: list[int]) -> Self:
        """Inverse of `to_grid`; corners may come in either order.

        Raises:
            ValueError: not five numbers, outside the grid, or without area.
        """
        if len(cell) != 5:
            raise ValueError(f"a box is [image, left, top, right, bottom], got {len(cell)} numbers")
        image_index, *edges = cell
        left, right = sorted((edges[0] / BOX_GRID, edges[2] / BOX_GRID))
        top, bottom = sorted((edges[1] / BOX_GRID, edges[3] / BOX_GRID))
        return cls(image_index=image_index, x=left, y=top, width=right - left, height=bottom - top)
