"""A page of facts and tables, as Markdown and as one HTML file without anything from outside. Every text is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|#!~])")
_LINKS = re.compile(r"(?i)(?<=[a-z]):(?=//|\S)|(?<=\bwww)\.|@")
"""What GitHub turns into links by itself: schemes, ``www.`` and mail addresses."""

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;background:#fff;max-width:1280px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid #dde3ea}
td{overflow-wrap:break-word;max-width:34rem}th{background:#f3f6f9;font-weight:600;white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;margin:0}
dt{color:#5a6675}dd{margin:0;overflow-wrap:anywhere}.state{display:inline-block;padding:.1rem .7rem;border-radius:1rem}
.good{background:#dff3e4;color:#14602c}.bad{background:#fbe1df;color:#8c1d13}.plain{background:#e8edf3;color:#33404f}
"""


@dataclass(frozen=True)
class Table:
    """Rows of text under a title; ``note`` says what to read from it, or why it is empty."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What is on the page, in order."""

    title: str
    state: str
    """One line on how it stands."""
    mood: str
    """``good``, ``bad`` or ``plain``: how ``state`` is coloured."""
    facts: Sequence[tuple[str, str]]
    tables: Sequence[Table]


def to_markdown(page: Page) -> str:
    """The page as Markdown (GitHub's tables). No text in it can become markup, a link or a second row."""
    lines = [f"# {_cell(page.title)}", "", f"**{_cell(page.state)}**", ""]
    lines += [f"- {_cell(name)}: {_cell(value)}" for name, value in page.facts]
    for table in page.tables:
        lines += ["", f"## {_cell(table.title)}", ""]
        if table.note:
            lines += [_cell(table.note), ""]
        if table.rows:
            lines += [_row(table.header), _row(["---"] * len(table.header), escape=False)]
            lines += [_row(row) for row in table.rows]
    return "\n".join(lines).rstrip() + "\n"


def to_html(page: Page) -> str:
    """The page as one HTML file that loads nothing and runs nothing, whatever the texts are."""
    mood = page.mood if page.mood in ("good", "bad") else "plain"
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in page.facts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(page.title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{_text(page.title)}</h1>\n<p><span class="state {mood}">{_text(page.state)}</span></p>\n'
        f"<dl>{facts}</dl>\n{''.join(map(_html_table, page.tables))}</body></html>\n"
    )


def _html_table(table: Table) -> str:
    note = f"<p>{_text(table.note)}</p>\n" if table.note else ""
    if not table.rows:
        return f"<h2>{_text(table.title)}</h2>\n{note}"
    head = "".join(f"<th>{_text(name)}</th>" for name in table.header)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>\n" for row in table.rows)
    return f"<h2>{_text(table.title)}</h2>\n{note}<table><tr>{head}</tr>\n{body}</table>\n"


def _row(cells: Sequence[str], *, escape: bool = True) -> str:
    return f"| {' | '.join(_cell(cell) if escape else cell for cell in cells)} |"


def _cell(text: str) -> str:
    escaped = _MARKDOWN.sub(r"\\\1", _plain(text).replace("&", "&amp;"))
    return _LINKS.sub(lambda found: f"&#{ord(found[0])};", escaped)


def _text(text: str) -> str:
    return html.escape(_plain(text), quote=True)


def _plain(text: str) -> str:
    """One line without control characters, also none that turn the direction of writing."""
    return _CONTROL.sub(" ", str(text)).strip()
