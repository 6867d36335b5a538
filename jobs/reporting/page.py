"""The report as one HTML file that asks nobody for anything: style, plots and pictures stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files

from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.gallery import Exhibit
from sonoloop.jobs.reporting.gallery_page import gallery_html
from sonoloop.jobs.reporting.plots import plots_of
from sonoloop.jobs.reporting.section import Section
from sonoloop.jobs.reporting.sections import chapters_of

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_GALLERY = "Drafts beside reviews"


def page_of(report: Report, gallery: Sequence[Exhibit] = ()) -> str:
    """The whole page."""
    plots, chapters = plots_of(report), chapters_of(report)
    shown = {title: [one for one in sections if one.rows] for title, sections in chapters.items()}
    parts = {title: "\n".join(_sections(found, plots)) for title, found in shown.items() if found}
    if gallery:
        parts[_GALLERY] = _gallery(gallery)
    missing = [section.title for sections in chapters.values() for section in sections if not section.rows]
    style = files("sonoloop.jobs.reporting").joinpath("page.css").read_text()
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>sonoloop report</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>The loop, {report.made_at:%Y-%m-%d}</h1>
<p>{escape(_opening(report))}</p>
<nav aria-label="Chapters">{"".join(_link(title) for title in parts)}</nav>
</header>
<main>
{"".join(_chapter(title, body) for title, body in parts.items())}
{_closing(missing) if missing else ""}
</main>
</body>
</html>
"""


def _opening(report: Report) -> str:
    given_up = ", ".join(f"{num} {why}" for why, num in sorted(report.escapes.items())) or "none"
    readers = "1 reader" if report.num_readers == 1 else f"{report.num_readers} readers"
    return (
        f"{report.num_readings} readings of {report.num_cases} cases by {readers}, "
        f"{report.made_at:%Y-%m-%d %H:%M} UTC. Cases that a reader had no answer to: {given_up}."
    )


def _link(title: str) -> str:
    return f'<a href="#{_anchor(title)}">{escape(title)}</a>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _chapter(title: str, body: str) -> str:
    return f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>\n{body}</section>\n'


def _gallery(gallery: Sequence[Exhibit]) -> str:
    note = (
        f"The newest {len(gallery)} readings that started from a draft, organ by organ. Struck out: what the "
        "reader took out of the draft. Underlined: what the reader wrote."
    )
    if any(one.pictures for one in gallery):
        note += " Dashed box: drafted; solid box: the reader's."
    return f"<p>{escape(note)}</p>\n{gallery_html(gallery)}"


def _closing(missing: list[str]) -> str:
    items = "".join(f"<li>{escape(title)}</li>" for title in missing)
    note = (
        "Cases reach two readers by [push] agreement_share, and are shown without a draft by control_share; "
        "a truth is known of gold cases (push --gold) and of adjudicated ones (adjudicate)."
    )
    return f"<section><h2>Nothing yet to show</h2>\n<p>{escape(note)}</p>\n<ul>{items}</ul></section>"


def _sections(sections: Sequence[Section], plots: Mapping[str, str]) -> Iterator[str]:
    for section in sections:
        yield f"<h3>{escape(section.title)}</h3>"
        yield f"<p>{escape(section.note)}</p>"
        if section.key in plots:
            yield f'<div class="wide plot">{plots[section.key]}</div>'
        if section.is_long:
            yield f"<details><summary>{len(section.rows)} rows</summary>"
        yield f'<div class="wide"><table><thead>{_row(section.headings, "th")}</thead><tbody>'
        yield from (_row(row, "td") for row in section.rows)
        yield "</tbody></table></div>"
        if section.is_long:
            yield "</details>"


def _row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in cells) + "</tr>"
