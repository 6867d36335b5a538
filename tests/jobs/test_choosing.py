"""Strategies that put candidates in order, and how a budget is shared among them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice
from typing import get_args

import numpy as np
import pytest
from pydantic import ValidationError

from sonoloop.jobs.config import PushConfig, Strategy
from sonoloop.jobs.pushing.candidates import Candidates, CandidateTable, lot, profile_of
from sonoloop.jobs.pushing.choosing import STRATEGIES, choose, farthest_first, mixed, scatter
from sonoloop.platform.lexicon import parse_entities

CYST = ("lesion=present", "organ=kidney", "parenchyma=normal", "scanner=A")
CLEAR = ("lesion=absent", "organ=kidney", "parenchyma=normal", "scanner=A")
FATTY = ("lesion=absent", "organ=liver", "parenchyma=fatty", "scanner=B")
LIVER = ("lesion=absent", "organ=liver", "parenchyma=normal", "scanner=B")
SURE = {"a": 0.9, "b": 0.2, "c": 0.7, "d": None, "e": 0.5}


def _table(
    rows: dict[str, tuple[float | None, tuple[str, ...]]], groups: dict[str, str] | None = None
) -> Candidates:
    table = CandidateTable(seed=0, groups=groups or {})
    for case_id, (sure, profile) in rows.items():
        table.add(case_id, sure, profile)
    return table.done()


def _ids(candidates: Candidates, strategy: Strategy) -> list[str]:
    return [candidates.case_id(index) for index in STRATEGIES[strategy](candidates)]


def _many(counts: dict[tuple[str, ...], int]) -> Candidates:
    """As many cases of each profile, all equally sure."""
    rows = {
        f"{kind}-{n:04d}": (0.5, profile)
        for kind, (profile, count) in enumerate(counts.items())
        for n in range(count)
    }
    return _table(rows)


def _profiles(candidates: Candidates, indices: list[int]) -> Counter[tuple[str, ...]]:
    return Counter(candidates.kinds[candidates.profiles[index]] for index in indices)


def test_the_least_sure_come_first_and_a_draft_without_a_score_before_them() -> None:
    candidates = _table({case_id: (sure, CLEAR) for case_id, sure in SURE.items()})
    assert _ids(candidates, "uncertain") == list("dbeca")
    assert _ids(candidates, "certain") == list("acebd")


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_strategy_gives_each_candidate_once_whatever_order_they_were_read_in(strategy: Strategy) -> None:
    profiles = (CYST, CLEAR, FATTY, LIVER)
    rows = {f"case-{n:03d}": (n % 7 / 7, profiles[n * n % 4]) for n in range(200)}
    one = _ids(_table(rows), strategy)
    assert sorted(one) == sorted(rows)
    assert _ids(_table(dict(reversed(rows.items()))), strategy) == one


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_nothing_to_choose_from_gives_nothing(strategy: Strategy) -> None:
    assert _ids(_table({}), strategy) == []


def test_diversity_shows_every_kind_before_it_shows_one_twice() -> None:
    candidates = _many({CLEAR: 500, CYST: 3, FATTY: 2, LIVER: 400})
    first = list(islice(STRATEGIES["diverse"](candidates), 8))
    assert set(_profiles(candidates, first[:4]).values()) == {1}
    assert set(_profiles(candidates, first).values()) == {2}


def test_the_next_kind_is_the_one_that_differs_most_from_those_before_it() -> None:
    candidates = _many({CLEAR: 1, CYST: 1, FATTY: 1})
    order = [candidates.kinds[kind] for kind in farthest_first(candidates)]
    # CLEAR and CYST differ in one field, either and FATTY in three or four.
    assert abs(order.index(CLEAR) - order.index(CYST)) == (2 if order[0] != FATTY else 1)
    assert FATTY in order[:2]


def test_diversity_begins_far_from_what_people_see_already() -> None:
    table = CandidateTable(seed=0)
    table.count_shown(CLEAR)
    for case_id, profile in (("near", CYST), ("far", FATTY), ("same", CLEAR)):
        table.add(case_id, 0.5, profile)
    assert _ids(table.done(), "diverse") == ["far", "near", "same"]


def test_balance_gives_rare_values_as_many_cases_as_common_ones() -> None:
    candidates = _many({CLEAR: 900, CYST: 20, FATTY: 30, LIVER: 50})
    chosen = list(islice(STRATEGIES["balanced"](candidates), 60))
    counts = _profiles(candidates, chosen)
    assert counts[CYST] == 15
    assert min(counts.values()) >= 14


def test_balance_makes_up_for_what_is_shown_already() -> None:
    table = CandidateTable(seed=0)
    for _ in range(10):
        table.count_shown(CYST)
    for n in range(20):
        table.add(f"cyst-{n}", 0.5, CYST)
        table.add(f"fatty-{n}", 0.5, FATTY)
    first = _ids(table.done(), "balanced")[:12]
    assert Counter(case_id.partition("-")[0] for case_id in first) == {"fatty": 11, "cyst": 1}


def test_a_budget_is_shared_as_asked_and_each_case_chosen_once() -> None:
    rows = {f"case-{n:04d}": (n / 2000, (CYST, CLEAR, FATTY, LIVER)[n % 4]) for n in range(2000)}
    candidates = _table(rows)
    shares: dict[Strategy, float] = {"uncertain": 2, "diverse": 1, "balanced": 1, "random": 0}
    chosen = choose(candidates, shares, 100)
    assert Counter(choice.strategy for choice in chosen) == {"uncertain": 50, "diverse": 25, "balanced": 25}
    assert len({choice.index for choice in chosen}) == 100
    uncertain = [candidates.case_id(c.index) for c in chosen if c.strategy == "uncertain"]
    assert uncertain == sorted(uncertain)
    assert uncertain[-1] < "case-0070"


def test_a_budget_beyond_all_candidates_gives_them_all() -> None:
    candidates = _table({case_id: (sure, CLEAR) for case_id, sure in SURE.items()})
    shares: dict[Strategy, float] = {"uncertain": 1, "random": 3}
    assert sorted(choice.index for choice in choose(candidates, shares, 99)) == list(range(5))
    assert len(choose(candidates, shares, None)) == 5


def test_of_near_duplicates_one_is_chosen_and_none_where_one_is_shown() -> None:
    groups = {"a": "g", "b": "g", "c": "h", "d": "h"}
    candidates = _table({case_id: (sure, CLEAR) for case_id, sure in SURE.items()}, groups)
    taken = {int(candidates.groups[2])}
    assert candidates.num_near_duplicates(set()) == 2
    assert candidates.num_near_duplicates(taken) == 3
    chosen = [candidates.case_id(choice.index) for choice in mixed(candidates, {"uncertain": 1}, taken)]
    assert chosen == ["b", "e"]
    assert len(choose(candidates, {"uncertain": 1}, None, None)) == 5


def test_a_lot_is_even_the_same_each_time_and_another_one_for_another_use() -> None:
    lots = np.array([lot(1, "control", f"case-{n}") for n in range(10_000)])
    assert lots.min() >= 0
    assert lots.max() < 1
    assert np.histogram(lots, bins=10, range=(0, 1))[0] == pytest.approx(np.full(10, 1000), abs=120)
    other = np.array([lot(1, "readers", f"case-{n}") for n in range(10_000)])
    assert abs(np.corrcoef(lots, other)[0, 1]) < 0.04
    assert lot(1, "control", "case-7") == lots[7] != lot(2, "control", "case-7")


def test_seeded_cases_are_scattered_and_the_others_keep_their_order() -> None:
    chosen = [f"case-{n:03d}" for n in range(100)]
    seeded = {f"gold-{n}": lot(0, "gold", f"gold-{n}") for n in range(20)}
    order = scatter(chosen, seeded)
    assert [case_id for case_id in order if case_id in chosen] == chosen
    places = [order.index(case_id) for case_id in seeded]
    assert len(set(places)) == 20
    assert min(places) < 25
    assert max(places) > 90
    assert scatter([], {"one": 0.5}) == ["one"]


def test_a_profile_holds_the_chosen_values_and_the_scanner_and_no_size() -> None:
    entities = parse_entities(
        '{"organ":"liver","parenchyma":"coarse","lesion":"present","echogenicity":"hypoechoic",'
        '"margin":"well-defined","posterior_features":"none","size_mm":"12"}'
    )
    profile = profile_of(entities, "Maker 7")
    assert {"organ=liver", "parenchyma=coarse", "margin=well-defined", "scanner=Maker 7"} <= set(profile)
    assert not any("size_mm" in word for word in profile)


@pytest.mark.parametrize(
    "bad",
    [
        {"shares": {"best": 1}},
        {"shares": {"random": 0}},
        {"shares": {}},
        {"control_share": 1.5},
        {"order": 1},
    ],
)
def test_shares_that_cannot_be_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PushConfig.model_validate(bad)


def test_label_studios_own_order_is_used_only_where_it_would_not_hide_controls() -> None:
    assert PushConfig(shares={"uncertain": 1}, control_share=0).least_sure_first
    assert not PushConfig(shares={"uncertain": 1}, control_share=0.1).least_sure_first
    assert not PushConfig(control_share=0).least_sure_first
    assert math.isclose(sum(PushConfig().shares.values()), 1)
