"""The gallery as HTML: boxes over the pictures, and what the reader changed marked word by word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from rapidfuzz.distance import Levenshtein

from sonoloop.jobs.reporting.gallery import Exhibit, Picture
from sonoloop.platform.lexicon import LesionBox


def gallery_html(exhibits: Sequence[Exhibit]) -> str:
    """All of them, one below the other."""
    return "\n".join(_article(one) for one in exhibits)


def _article(one: Exhibit) -> str:
    pictures = "".join(_figure(picture) for picture in one.pictures)
    reports = "".join(
        f"<h4>{heading}</h4><p>{words_changed(draft, review)}</p>" for heading, draft, review in one.reports
    )
    return (
        f"<article><h3>{escape(one.organ)} <small>case {escape(one.case_id[:12])}, draft of "
        f"{escape(one.model_version)}</small></h3>"
        f'<div class="exhibit"><div class="pictures">{pictures}</div>'
        f'<div>{reports}<ul class="fields">{"".join(_fields(one))}</ul></div></div></article>'
    )


def _fields(one: Exhibit) -> Iterator[str]:
    for field, drafted, said in one.fields:
        name = escape(field.replace("_", " "))
        if drafted == said:
            yield f"<li>{name} <b>{escape(str(said))}</b></li>"
        else:
            old = f"<del>{escape(drafted)}</del> " if drafted is not None else ""
            new = f"<ins>{escape(said)}</ins>" if said is not None else ""
            yield f'<li class="changed">{name} {old}{new}</li>'


def words_changed(draft: str, review: str) -> str:
    """The reader's text, with what was taken out of the draft and what was put in.

    Args:
        draft: What the model wrote.
        review: What the reader made of it.
    """
    old, new = draft.split(), review.split()
    parts = []
    for step in Levenshtein.opcodes(old, new):
        gone = escape(" ".join(old[step.src_start : step.src_end]))
        come = escape(" ".join(new[step.dest_start : step.dest_end]))
        if step.tag == "equal":
            parts.append(come)
            continue
        parts += [f"<del>{gone}</del>"] if gone else []
        parts += [f"<ins>{come}</ins>"] if come else []
    return " ".join(parts)


def _figure(picture: Picture) -> str:
    boxes = "".join(
        _rectangle(box, picture, kind)
        for kind, found in (("drafted", picture.drafted), ("reviewed", picture.reviewed))
        for box in found
    )
    told = f"key frame, {len(picture.drafted)} drafted and {len(picture.reviewed)} reviewed boxes"
    return (
        f'<svg role="img" aria-label="{told}" viewBox="0 0 {picture.width} {picture.height}" '
        f'width="{picture.width}" height="{picture.height}">'
        f'<image href="{picture.data}" width="{picture.width}" height="{picture.height}"/>{boxes}</svg>'
    )


def _rectangle(box: LesionBox, picture: Picture, kind: str) -> str:
    width, height = picture.width, picture.height
    return (
        f'<rect class="{kind}" x="{box.x * width:.1f}" y="{box.y * height:.1f}" '
        f'width="{box.width * width:.1f}" height="{box.height * height:.1f}"/>'
    )
