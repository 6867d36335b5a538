"""What every organ's entities share: the lesion's status, its descriptors and its qualifiers.

Three kinds of fields, in writing order:

- organ-level fields (liver parenchyma, pericardial effusion): always given;
- descriptors of the lesion: all given exactly when ``lesion`` is ``present``;
- qualifiers of the lesion (side, place, size): each given only where it was assessed. A missing qualifier
  means "not assessed"; it has no such value of its own.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

NOT_ASSESSED = "not assessed"

Organ = Literal["breast", "thyroid", "liver", "kidney", "ovary", "heart", "vessel"]
"""Only ever appended to: phantoms draw their random numbers from an organ's index."""
ORGANS: tuple[Organ, ...] = get_args(Organ)
LesionStatus = Literal["present", "absent", "not assessed"]
Finding = Literal["absent", "present", "not assessed"]
Laterality = Literal["left", "right"]
"""The patient's side of the dominant lesion in a paired organ; one lesion is never bilateral."""

MAX_SIZE_MM = 400


def whole_number(value: object) -> object:
    """Refuse what pydantic would take for 0 or 1: `true` and `false`."""
    if isinstance(value, bool):
        raise ValueError("expected a whole number")  # noqa: TRY004 - pydantic collects ValueErrors only
    return value


SizeMm = Annotated[int, Field(ge=1, le=MAX_SIZE_MM), BeforeValidator(whole_number)]


class Entities(BaseModel):
    """One organ and its dominant lesion; see the module for the three kinds of fields.

    Raises:
        ValidationError: a value outside the vocabulary, a present lesion without one of its descriptors, or
            a descriptor or qualifier without a present lesion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    QUALIFIERS: ClassVar[tuple[str, ...]] = ("size_mm",)
    """Names of this organ's qualifiers, in writing order."""

    organ: Organ
    lesion: LesionStatus
    size_mm: SizeMm | None = Field(default=None, description="largest diameter of the lesion, whole mm")

    @classmethod
    def descriptors(cls) -> tuple[str, ...]:
        """Names of the fields that describe the lesion, in writing order."""
        optional = (name for name, field in cls.model_fields.items() if not field.is_required())
        return tuple(name for name in optional if name not in cls.QUALIFIERS)

    @model_validator(mode="after")
    def _descriptors_follow_lesion(self) -> Self:
        given = [name for name in self.descriptors() if getattr(self, name) is not None]
        if self.lesion == "present" and len(given) != len(self.descriptors()):
            missing = sorted(set(self.descriptors()) - set(given))
            raise ValueError(f"a lesion is present but not described: {', '.join(missing)}")
        given += [name for name in self.QUALIFIERS if getattr(self, name) is not None]
        if self.lesion != "present" and given:
            raise ValueError(f"no lesion is present but described: {', '.join(given)}")
        return self

    def flat(self) -> dict[str, str]:
        """Field name to value as text, without what does not apply or was not assessed."""
        return {name: str(value) for name, value in self.model_dump(exclude_none=True).items()}
