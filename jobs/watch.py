"""``sonoloop watch``: pull at intervals, and train a challenger when enough reviews of enough kinds are new.

A review is new when no training has seen it: it is in none of the snapshots that champion, challenger and
previous champion were trained on, and no training of the watcher left it out. So it does not matter who
trained, or whether a watcher died after its training: nothing is learned from twice.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.claims import Claim, read_holder
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.evaluate import run_evaluate
from sonoloop.jobs.evaluating.stored import read_evaluation, snapshot_of
from sonoloop.jobs.finetune import run_finetune
from sonoloop.jobs.output import ConfigOption, progress
from sonoloop.jobs.promote import run_promote
from sonoloop.jobs.pull import run_pull
from sonoloop.jobs.snapshot import read_rows
from sonoloop.platform import registry
from sonoloop.platform.errors import (
    ConfigError,
    ConflictError,
    GateRefusedError,
    NothingToDoError,
    SonoloopError,
    StorageError,
)
from sonoloop.platform.records import ReviewRecord, content_id
from sonoloop.platform.tables import current_reviews, disputed_ids
from sonoloop.platform.watch_hint import hinted_at
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

MAX_PAUSE_S = 3600.0
"""Between two looks, however often the last ones failed; longer only where ``watch.every_s`` is."""
HINT_EVERY_S = 5.0
"""How often a hint is looked for, at most."""
HINTED_SHARE = 10
"""A hint brings a look forward to this part of the pause."""


class WatchState(BaseModel):
    """``watch/<model>/state.json``: what the watcher has tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    reviews: str = Field(default="", description="hash of the reviews that the last training began with")
    attempts: int = Field(default=0, description="trainings begun on exactly these")
    left_out: tuple[str, ...] = Field(
        default=(), description="review ids that the last training could not use; they are not new"
    )


@dataclass(frozen=True)
class News:
    """Reviews that no training has seen."""

    num_reviews: int
    organs: tuple[str, ...]

    def missing(self, config: Config) -> str:
        """What is missing until the next training; empty where nothing is."""
        more = {
            "reviews": config.watch.min_reviews - self.num_reviews,
            "organs": config.watch.min_organs - len(self.organs),
        }
        return " and ".join(f"{number} more {name}" for name, number in more.items() if number > 0)

    def __str__(self) -> str:
        return f"{self.num_reviews} new reviews of {len(self.organs)} organs"


def watch(
    config: ConfigOption = "sonoloop.toml",
    once: Annotated[bool, typer.Option("--once", help="Look once and end, as cron wants it.")] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let a challenger that passes the gate draft.")
    ] = False,
) -> None:
    """Pull reviews at intervals; finetune and evaluate when enough are new."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # gives the claim up, as Ctrl-C does
    watcher = Watcher(load_config(config), promote=promote, say=lambda line: progress.print(f"watch: {line}"))
    with suppress(KeyboardInterrupt):
        watcher.run(once=once)


class Watcher:
    """Watches one model line of one workspace; ``ray.remote(Watcher)`` is an actor that does.

    Args:
        config: The configuration.
        promote: Whether the gate is asked after each evaluation.
        say: Gets one line per look, and one per thing done.
    """

    def __init__(self, config: Config, *, promote: bool = False, say: Say = logger.info) -> None:
        self._config, self._promote, self._say = config, promote, say
        self._name = config.model.name
        self._place = ("watch", self._name)

    def run(self, *, once: bool = False) -> None:
        """Look, act, pause, for ever; in the main thread, where the claim's loss is told.

        Where a look fails, the next one comes after a pause that doubles up to `MAX_PAUSE_S`.

        Args:
            once: Look a single time, and raise what goes wrong.

        Raises:
            HeldError: another watcher watches this model line.
            ConflictError: another watcher took over.
            ConfigError: a key is missing, or there is no champion.
        """
        workspace = self._config.open_workspace()
        claim = (*self._place, "claim.json")
        with Claim(workspace, *claim):
            owner = _owner(workspace, claim)
            num_failures = 0
            while True:
                hint = _hint(workspace)  # one that comes while we look may tell of more
                try:
                    self.look(workspace)
                    num_failures = 0
                except ConfigError:
                    raise
                except SonoloopError as err:
                    if once or (isinstance(err, ConflictError) and _owner(workspace, claim) != owner):
                        raise
                    num_failures += 1
                    logger.warning("look %d in a row failed: %s", num_failures, err)
                    self._say(f"{err}; looking again in {self._pause_s(num_failures):.0f} s")
                if once:
                    return
                _pause(workspace, self._pause_s(num_failures), hint)

    def look(self, workspace: Store) -> None:
        """Pull, finish what an earlier training left undone, and train if enough is new.

        Raises:
            SonoloopError: what pull, finetune and evaluate raise.
        """
        run_pull(self._config)
        self._judge(workspace)
        reviews = _usable(workspace)
        state, version = self._read_state(workspace)
        found = news(workspace, self._name, reviews, state)
        if missing := found.missing(self._config):
            self._say(f"{found}; {missing} until the next training")
            return
        key = content_id(*sorted(reviews))
        attempts = state.attempts + 1 if state.reviews == key else 1
        if attempts > self._config.watch.max_attempts:
            self._say(f"{found}, but {state.attempts} trainings on them came to nothing; waiting for more")
            return
        self._say(f"{found}: training")
        # Before the training: one that takes this process down is an attempt as well.
        state = WatchState(reviews=key, attempts=attempts, left_out=state.left_out)
        self._write_state(workspace, state, version)
        self._train(workspace, state, set(reviews))

    def _train(self, workspace: Store, state: WatchState, review_ids: set[str]) -> None:
        try:
            trained = run_finetune(self._config)
        except NothingToDoError as err:  # all of them are held out, say: nothing but more reviews helps
            self._say(str(err))
            return
        left_out = review_ids - _seen(workspace, trained.snapshot)
        _, version = self._read_state(workspace)
        changed = state.model_copy(update={"left_out": tuple(sorted(left_out))})
        self._write_state(workspace, changed, version)
        self._say(f"{trained.challenger} trained on {trained.num_train} reviews")
        self._judge(workspace)

    def _judge(self, workspace: Store) -> None:
        """Evaluate both models where that is missing; ask the gate where it is to be asked."""
        aliases = registry.read_aliases(workspace, self._name)
        champion, challenger = aliases.champion, aliases.challenger
        if champion is None or challenger is None:
            return
        try:
            snapshot = snapshot_of(workspace, challenger)
            if not all(read_evaluation(workspace, one, snapshot) for one in (champion, challenger)):
                measured = run_evaluate(self._config)
                old, new = (one.scores.entity_macro_f1 for one in (measured.champion, measured.challenger))
                figures = f"entity macro-F1 {old:.3f} -> {new:.3f}"
                self._say(f"{challenger}: {figures} on {measured.num_cases} held-out cases")
            version = challenger.partition("/")[2]
            if self._promote and not workspace.exists("models", self._name, version, "decision.json"):
                self._say(f"promoted: {run_promote(self._config).champion}")
        except (NothingToDoError, GateRefusedError) as err:
            self._say(str(err))

    def _pause_s(self, num_failures: int) -> float:
        every_s = self._config.watch.every_s
        return min(every_s * 2.0**num_failures, max(every_s, MAX_PAUSE_S))

    def _read_state(self, workspace: Store) -> tuple[WatchState, str | None]:
        found = workspace.get_control(*self._place, "state.json")
        return (WatchState.model_validate_json(found[0]), found[1]) if found else (WatchState(), None)

    def _write_state(self, workspace: Store, state: WatchState, version: str | None) -> None:
        data = state.model_dump_json(indent=2).encode()
        workspace.put_control(data, *self._place, "state.json", version=version)


def news(workspace: Store, name: str, reviews: dict[str, ReviewRecord], state: WatchState) -> News:
    """What of the usable reviews no training has seen.

    Args:
        workspace: Where models and snapshots lie.
        name: The model line.
        reviews: The current usable reviews by id.
        state: What the watcher has tried.
    """
    known = set(state.left_out)
    for version in filter(None, registry.read_aliases(workspace, name).model_dump().values()):
        try:
            known |= _seen(workspace, snapshot_of(workspace, version))
        except (NothingToDoError, ConfigError):  # it was not trained here
            continue
    new = [review for review_id, review in reviews.items() if review_id not in known]
    organs = {entities.organ for review in new if (entities := review.parsed_entities()) is not None}
    return News(len(new), tuple(sorted(organs)))


def _seen(workspace: Store, snapshot: str) -> set[str]:
    return {row.review_id for row in read_rows(workspace, snapshot)}


def _usable(workspace: Store) -> dict[str, ReviewRecord]:
    """The reviews that a snapshot takes: whole ones, of cases on which the readers agree."""
    disputed = frozenset(disputed_ids(workspace))
    return {
        review.review_id: review
        for case_id, review in current_reviews(workspace).items()
        if case_id not in disputed and review.entities is not None and review.findings and review.impression
    }


def _owner(workspace: Store, claim: tuple[str, ...]) -> str | None:
    holder = read_holder(workspace, *claim)
    return None if holder is None else holder.owner


def _pause(workspace: Store, pause_s: float, hint: datetime | None) -> None:
    """Wait for the next look. A hint other than the one known brings it forward, to a tenth of the pause."""
    begin = time.monotonic()
    while (waited_s := time.monotonic() - begin) < pause_s:
        if waited_s >= pause_s / HINTED_SHARE and _hint(workspace) != hint:
            return
        time.sleep(min(HINT_EVERY_S, pause_s / HINTED_SHARE, pause_s - waited_s))


def _hint(workspace: Store) -> datetime | None:
    try:
        return hinted_at(workspace)
    except StorageError:  # the next look tells
        return None
