"""The command line: one verb, one module, found through the entry points ``sonoloop.commands``.

Entry points keep the rooms apart (``serve`` is not imported by ``jobs``) and load a verb only when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import click
import typer

from sonoloop.platform import logs
from sonoloop.platform.cluster import choose_authentication
from sonoloop.platform.errors import ConfigError, SonoloopError

GROUP = "sonoloop.commands"
VERBS = {
    "doctor": "What is missing or broken, and what to do.",
    "init": "Make a workspace ready for its first run.",
    "index": "Archive to cases with de-identified key frames.",
    "import": "Conversations that people have, to be learned from.",
    "annotate": "Cases to drafts: report, entities, boxes.",
    "push": "Drafts to Label Studio, one task per case.",
    "pull": "Corrections back as reviews.",
    "adjudicate": "Cases that readers disagree on, to be settled.",
    "watch": "Pull again and again, and train when enough is new.",
    "finetune": "Reviews to a challenger.",
    "evaluate": "Champion and challenger on held-out cases.",
    "promote": "Let the winner draft, or roll back.",
    "lineage": "Where a model, a case or a task came from, and what came of it.",
    "retire": "Give up the weights of old versions, keep their history.",
    "drift": "What moved since the months before: pictures, confidence, corrections.",
    "export": "Cleaned DICOM, or results as SR, FHIR, COCO, JSON lines.",
    "quarantine": "What may show patient data: list, show, release, keep.",
    "status": "What the workspace holds.",
    "report": "The loop's story on one page: funnel, models, readers, cost.",
    "serve": "Answer questions with the champion.",
    "keys": "Who may ask: add, list, revoke API keys.",
    "demo": "The whole loop on this machine, on phantoms.",
    "up": "Start the local stack: S3, Label Studio, Ray.",
    "down": "Stop the local stack.",
}


class _InLoopOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


def app() -> click.Group:
    """The command group; each verb loads its module when it is called."""
    group = _InLoopOrder(
        "sonoloop",
        help="Drafts, corrections and better models for large ultrasound archives.",
        no_args_is_help=True,
    )
    for verb, summary in VERBS.items():
        group.add_command(_deferred(verb, summary))
    return group


def _deferred(verb: str, summary: str) -> click.Command:
    def run(arguments: tuple[str, ...]) -> None:
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(verb, help=summary)(_load(verb))
        # Typer reports its own usage errors and exits; since 0.26 they are no longer click's classes.
        typer.main.get_command(single).main(list(arguments), prog_name=f"sonoloop {verb}")

    passing = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    argument = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    return click.Command(verb, callback=run, params=[argument], help=summary, context_settings=passing)


def _load(verb: str) -> Callable[..., None]:
    (entry,) = entry_points(group=GROUP, name=verb)
    try:
        function: Callable[..., None] = entry.load()
    except ModuleNotFoundError as err:
        if (err.name or "sonoloop").startswith("sonoloop"):
            raise
        raise ConfigError(
            f"`sonoloop {verb}` needs the package {err.name}; pip install 'sonoloop[demo]' brings all extras"
        ) from err
    return function


def main() -> None:
    """Entry point of the console script. Exit codes are those of `sonoloop.platform.errors`."""
    try:
        logs.set_up()
        choose_authentication()  # before any verb loads Ray
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ lines name nothing to act on
        app().main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as err:
        err.show()
        sys.exit(err.exit_code)
    except SonoloopError as err:
        click.echo(f"error: {err}", err=True)
        sys.exit(err.exit_code)


if __name__ == "__main__":
    main()
