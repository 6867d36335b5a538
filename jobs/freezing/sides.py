"""On which side of the split a case or an imported conversation stands, and why some stand on none.

1. A patient's side is a lot, drawn once: it depends on nothing but the pseudonym and the share held out. What
   the patient's cases were before goes before it: trained on, held out, or gold, which is held out.
2. A case stands where its patient stands, unless something that shares a picture with it stands on the other
   side. Then it stands on none, and neither does the other.
3. Whoever stood on both sides, one way or another, stands on none from then on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from sonoloop.jobs.freezing.register import Past, Side
from sonoloop.jobs.freezing.rows import CaseFacts
from sonoloop.platform.records import ConversationRecord

Nowhere = Literal["straddling", "on-both-sides"]
"""Near-duplicates stand on both sides; it or its patient was trained on, and is held out or gold."""


@dataclass(frozen=True)
class Member:
    """Something that is to stand on a side.

    Attributes:
        key: Its id.
        owner: The patient, or group of conversations, whose side it follows.
        links: Whatever shares one of these shares a picture with it.
        been: Sides on which it stood; they tell of its owner.
        met: Sides on which something like it stood; they tell of it and what is linked, not of its owner.
    """

    key: str
    owner: str
    links: tuple[str, ...] = ()
    been: frozenset[Side] = frozenset()
    met: frozenset[Side] = frozenset()


@dataclass(frozen=True)
class Sides:
    """Where owners and members stand."""

    owners: dict[str, frozenset[Side]]
    members: dict[str, Side | Nowhere]


def side_by_lot(owner: str, test_share: float) -> Side:
    """The side a patient stands on, for ever: it depends on nothing but the patient.

    Args:
        owner: Keyed hash, hexadecimal, evenly distributed.
        test_share: Share of patients held out, 0..1.
    """
    return "held-out" if int(owner[:8], 16) / 16**8 < test_share else "train"


def decide(members: Sequence[Member], owners: Mapping[str, AbstractSet[Side]], *, test_share: float) -> Sides:
    """Where each member stands.

    Args:
        members: All that may tell of one another.
        owners: Sides on which owners stood.
        test_share: Share of the other owners held out, 0..1.
    """
    been: dict[str, set[Side]] = defaultdict(set)
    for member in members:
        been[member.owner] |= member.been | owners.get(member.owner, frozenset())
    stands = {owner: frozenset(sides or {side_by_lot(owner, test_share)}) for owner, sides in been.items()}
    linked: dict[str, set[Side]] = defaultdict(set)
    for member in members:
        for link in member.links:
            linked[link] |= stands[member.owner] | member.met
    found: dict[str, Side | Nowhere] = {}
    for member in members:
        own = stands[member.owner]
        around = own.union(member.met, *(linked[link] for link in member.links))
        found[member.key] = (
            "on-both-sides" if len(own) > 1 else "straddling" if len(around) > 1 else next(iter(own))
        )
    return Sides(stands, found)


def case_sides(cases: Sequence[CaseFacts], past: Past, *, test_share: float) -> Sides:
    """Where cases stand; `decide` of what the register and the ledger of tasks know of them."""
    gold: frozenset[Side] = frozenset({"held-out"})
    members = [
        Member(
            case.case_id,
            case.patient_key,
            () if case.group_key is None else (case.group_key,),
            past.sides("case", case.case_id) | (gold if case.is_gold else frozenset()),
            past.sides("near", case.case_id) | past.sides("imported-picture", *case.images),
        )
        for case in cases
    ]
    owners = {case.patient_key: past.sides("patient", case.patient_key) for case in cases}
    return decide(members, owners, test_share=test_share)


def conversation_sides(
    conversations: Sequence[ConversationRecord],
    cases: Sequence[CaseFacts],
    sides: Sides,
    past: Past,
    *,
    test_share: float,
) -> Sides:
    """Where conversations stand beside cases: an owner or a picture that both have binds them.

    Args:
        conversations: To stand somewhere.
        cases: Whose pictures they may show.
        sides: Where these stand.
        past: The register.
        test_share: Share of the other groups held out, 0..1.
    """
    shown: dict[str, set[Side]] = defaultdict(set)
    for case in cases:
        for image in case.images:
            shown[image] |= sides.owners[case.patient_key]
    members = [
        Member(
            one.conversation_id,
            one.group_key,
            one.image_keys,
            past.sides("case", one.conversation_id),
            past.sides("picture", *one.image_keys)
            | past.sides("imported-picture", *one.image_keys)
            | frozenset().union(*(shown[key] for key in one.image_keys)),
        )
        for one in conversations
    ]
    owners = {
        one.group_key: past.sides("patient", one.group_key) | sides.owners.get(one.group_key, frozenset())
        for one in conversations
    }
    return decide(members, owners, test_share=test_share)
