"""The report as one HTML file that asks nobody for anything: style and plots stand in it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from sonoloop.jobs.reporting.figures import Report
from sonoloop.jobs.reporting.plots import plots_of
from sonoloop.jobs.reporting.sections import Section, sections_of

_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px auto; max-width: 1000px; padding: 0 16px; }
h1 { font-size: 20px; } h2 { font-size: 16px; margin: 32px 0 4px; } p { color: #555; margin: 4px 0 10px; }
table { border-collapse: collapse; } th, td { padding: 3px 14px 3px 0; text-align: left; }
th { border-bottom: 1px solid #999; } td { border-bottom: 1px solid #e5e5e5; }
td:not(:first-child) { font-variant-numeric: tabular-nums; } svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page_of(report: Report) -> str:
    """The whole page."""
    plots = plots_of(report)
    body = "\n".join(part for section in sections_of(report) for part in _section(section, plots))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>sonoloop report</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Readers and drafts</h1>
<p>{escape(_opening(report))}</p>
{body}
</body>
</html>
"""


def _opening(report: Report) -> str:
    given_up = ", ".join(f"{num} {why}" for why, num in sorted(report.escapes.items())) or "none"
    return (
        f"{report.num_readings} readings of {report.num_cases} cases by {report.num_readers} readers, "
        f"{report.made_at:%Y-%m-%d %H:%M} UTC. Cases that a reader had no answer to: {given_up}."
    )


def _section(section: Section, plots: dict[str, str]) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}</h2>"
    yield f"<p>{escape(section.note)}</p>"
    if not section.rows:
        yield "<p>Nothing yet.</p>"
        return
    if section.key in plots:
        yield plots[section.key]
    if section.is_long:
        yield f"<details><summary>{len(section.rows)} rows</summary>"
    yield f'<div class="wide"><table><thead>{_row(section.headings, "th")}</thead><tbody>'
    yield from (_row(row, "td") for row in section.rows)
    yield "</tbody></table></div>"
    if section.is_long:
        yield "</details>"


def _row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in cells) + "</tr>"
