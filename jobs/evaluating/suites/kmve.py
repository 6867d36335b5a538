"""KMVE's ultrasound reports: Chinese findings of breast, thyroid and liver with two pictures each.

A file is ``{"train": [...], "val": [...], "test": [{"uid", "image_path": [..., ...], "finding", ...}]}``;
only ``test`` is asked. Source: LijunRio/Ultrasound-Report-Generation, KMVE_RG/modules/datasets.py. The model
gets its own report prompt in Chinese, as cases are drafted; its findings are scored, or all it wrote where
that is no report of two sections. The publication cuts words by jieba with a list of technical words that it
does not publish; here jieba has its own dictionary, and characters stand beside.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.answering import answer_all
from sonoloop.jobs.evaluating.averages import Figures, group_rows
from sonoloop.jobs.evaluating.items import Answered, Item, item_or_rejection
from sonoloop.jobs.evaluating.results import SuiteResult, SuiteRow, store_result
from sonoloop.jobs.evaluating.suites.conversations import check_below, read_images
from sonoloop.jobs.evaluating.texts import TextFigures
from sonoloop.model.chosen import choose_images
from sonoloop.model.metrics.tokens import chinese_characters, chinese_words
from sonoloop.model.prompts import PROMPTS, parse_report
from sonoloop.platform import registry
from sonoloop.platform.errors import NothingToDoError, Reason, RejectedError
from sonoloop.platform.workspace import Store, store_of

TASK = "report generation"
_MEANINGS = {
    "average": "plain mean over the files",
    "answer": "the findings of the model's report; all that it wrote where that is no report of two sections",
}


@dataclass(frozen=True)
class ReportFile:
    """One annotation file.

    Attributes:
        store: Where it and its pictures lie.
        path: The file's, within the store.
        folders: Where pictures are looked for, within the store.
        max_images: Of one item.
    """

    store: Store
    path: str
    folders: tuple[str, ...]
    max_images: int

    @property
    def name(self) -> str:
        """The path."""
        return self.path

    def items(self) -> Iterator[Item]:
        """One for each record of the test side.

        Raises:
            RejectedError: the file has no test side.
        """
        data = json.loads(self.store.read_bytes(self.path).decode("utf-8-sig"))
        records = data.get("test") if isinstance(data, dict) else None
        if not isinstance(records, list):
            raise RejectedError(Reason.UNREADABLE, "expected an object whose test is a list of records")
        for number, record in enumerate(records):
            place = f"{self.path}#{number}"
            yield item_or_rejection(place, TASK, self.path, partial(self._item, place, record))

    def _item(self, place: str, record: Any) -> Item:
        finding = record.get("finding") if isinstance(record, dict) else None
        if not isinstance(finding, str) or not finding.strip():
            raise RejectedError(Reason.UNREADABLE, "expected a record with its finding")
        prompt = PROMPTS["report", "zh"]
        return Item(
            place=place,
            task=TASK,
            group=self.path,
            turns=(("system", prompt.system), ("user", prompt.request(None))),
            images=self._images(record.get("image_path")),
            reference=finding,
        )

    def _images(self, names: Any) -> tuple[bytes, ...]:
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise RejectedError(Reason.UNREADABLE, "expected image_path to be paths of pictures")
        names = [name.replace("\\", "/") for name in names]
        check_below(names)
        for folder in self.folders:
            if self.store.exists(folder + names[0]):
                chosen = choose_images(len(names), self.max_images)
                return read_images(self.store, [folder + names[at] for at in chosen])
        raise RejectedError(Reason.IMAGE_MISSING, "a picture of the item is not there")


def run_kmve(config: Config, path: str, *, model: str) -> SuiteResult:
    """Write the reports of KMVE's test side with a model and score them.

    Args:
        config: The configuration.
        path: The folder of the annotation files and of the pictures' folders, or an ``s3://`` URI.
        model: Alias or version.

    Raises:
        NothingToDoError: no annotation file there.
        ConfigError: no such model, or the cluster cannot hold the actors.
    """
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name, model)
    files = report_files(store_of(path, config.s3), max_images=config.annotate.engine.max_images)
    answers = answer_all(config, workspace, version, files)
    texts = TextFigures((chinese_words(), chinese_characters()), config.evaluate)
    return store_result(
        workspace,
        "kmve",
        version,
        answers,
        score_kmve([one for one in answers if one.is_scored], texts),
        definitions={**_MEANINGS, **texts.definitions},
        tokenizers=texts.names,
        prompt_version=PROMPTS["report", "zh"].id,
    )


def score_kmve(answers: Sequence[Answered], texts: TextFigures) -> list[SuiteRow]:
    """A row for each file, and the average."""

    def figures(some: Sequence[Answered]) -> Figures:
        found = texts([findings_of(one.text) for one in some], [one.item.reference for one in some])
        return Figures.over(found, len(some))

    return group_rows(TASK, answers, figures, average="average")[0] if answers else []


def findings_of(text: str) -> str:
    """The findings of a report; the text itself where it is none."""
    try:
        return parse_report(text, language="zh")[0]
    except ValueError:
        return text


def report_files(store: Store, *, max_images: int) -> list[ReportFile]:
    """The annotation files of a folder.

    Raises:
        NothingToDoError: there is none.
    """
    root = store.root.rstrip("/") + "/"
    paths = [info.uri.removeprefix("s3://").removeprefix(root) for info in store.list_objects()]
    found = [path for path in paths if path.lower().endswith(".json") and "/" not in path]
    if not found:
        raise NothingToDoError(f"{store.uri} holds no .json file of KMVE; check --path")
    folders = ("", *(f"{folder}/" for folder in store.folders()))
    return [ReportFile(store, path, folders, max_images) for path in found]
