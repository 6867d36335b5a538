"""What to say of a run whose model actors wait for preparers: the number of these that would feed them."""

from __future__ import annotations

import math

from sonoloop.jobs.config import AnnotateConfig

IDLE_SHARE = 0.10
"""Share of their time that model actors may wait before it is said."""
BUSY_SHARE = 0.70
"""Share of their time from which on preparers are what the actors wait for."""


def preparers_needed(num_actors: int, *, prepare_s: float, draft_s: float) -> int:
    """Preparers that keep model actors fed: cases are drafted at ``num_actors / draft_s``, prepared one in
    ``prepare_s`` by each.

    Raises:
        ValueError: drafting takes no time.
    """
    if draft_s <= 0:
        raise ValueError(f"draft_s must be above 0, got {draft_s}")
    return math.ceil(num_actors * prepare_s / draft_s - 1e-9)


def starvation(
    config: AnnotateConfig,
    *,
    num_actors: int,
    idle_share: float,
    num_preparers: int,
    busy_share: float,
    draft_s: float,
    prepare_s: float,
) -> str | None:
    """What to say where model actors wait for preparers; None where they do not.

    Args:
        config: The run's settings.
        num_actors: Model actors at work.
        idle_share: Share of their time that they waited, 0..1.
        num_preparers: Preparers at work.
        busy_share: Share of their time that these worked, 0..1.
        draft_s: Seconds of an actor per case.
        prepare_s: Seconds of a preparer per case.
    """
    needed = preparers_needed(num_actors, prepare_s=prepare_s, draft_s=draft_s)
    if idle_share <= IDLE_SHARE or busy_share < BUSY_SHARE or needed <= num_preparers:
        return None
    cpus = needed * config.cpus_per_preparer
    what_to_do = []
    if needed > config.max_preparers:
        what_to_do.append(f"set annotate.max_preparers to {needed}")
    if num_preparers < config.max_preparers:
        what_to_do.append("add CPU nodes, or lower annotate.cpus_per_preparer where real cores are idle")
    else:
        what_to_do.append(f"see that the cluster has {cpus:g} CPUs for them")
    actors = "one model actor" if num_actors == 1 else f"{num_actors} model actors"
    return (
        f"model actors wait {idle_share:.0%} of the time for images: a preparer takes {prepare_s:.2g} s per "
        f"case, a model actor {draft_s:.2g} s; feeding {actors} takes {needed} preparers ({cpus:g} CPUs), "
        f"there are {num_preparers}; {' and '.join(what_to_do)}"
    )
