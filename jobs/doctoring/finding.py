"""What one look found, and how looks are kept from hanging or from hiding an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.platform.errors import SonoloopError

State = Literal["ok", "warning", "problem"]


class Finding(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    area: str = Field(description="machine, packages, storage, label studio, ray, model, ...")
    what: str
    state: State
    found: str
    remedy: str = Field(default="", description="one line; empty where all is well")


Look = Callable[[], Iterable[Finding]]


def ok(area: str, what: str, found: str) -> Finding:
    """All is well."""
    return Finding(area=area, what=what, state="ok", found=found)


def warning(area: str, what: str, found: str, remedy: str) -> Finding:
    """It works, and may not for long or not for all."""
    return Finding(area=area, what=what, state="warning", found=found, remedy=remedy)


def problem(area: str, what: str, found: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(area=area, what=what, state="problem", found=found, remedy=remedy)


class _Running:
    """A look in a thread of its own; what it found before it was given up counts."""

    def __init__(self, area: str, look: Look) -> None:
        self.area, self._look = area, look
        self.found: list[Finding] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for finding in self._look():
                self.found.append(finding)
        except SonoloopError as err:
            text, _, remedy = str(err).partition("; ")
            self.found.append(problem(self.area, "answer", text, remedy or "see the message"))
        except Exception as err:  # the boundary: one broken part must not hide the others
            name = type(err).__name__
            self.found.append(
                problem(
                    self.area, "look", f"failed with {name}", "report this: doctor itself should not fail"
                )
            )


def findings_of(looks: Sequence[tuple[str, Look]], *, limit_s: float) -> Iterator[Finding]:
    """All findings, in the order of the looks, which run at the same time.

    Args:
        looks: Area and what looks at it.
        limit_s: How long all of them together may take; what does not answer by then is a problem.
    """
    end = time.monotonic() + limit_s
    for one in [_Running(area, look) for area, look in looks]:
        one.thread.join(max(0.0, end - time.monotonic()))
        is_late = one.thread.is_alive()
        yield from list(one.found)
        if is_late:
            yield problem(
                one.area, "time", f"no answer within {limit_s:g} s", "is it overloaded, or a firewall?"
            )
