"""Samples on a terminal and as HTML: the right shade on the right token, no text as markup."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import Any

from rich.console import Console

from tokencredit.console import visible
from tokencredit.reports.samples import render_samples, samples_html

Rows = list[dict[str, Any]]


class Page(HTMLParser):
    """The tags of a page and the tokens with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.tokens: list[tuple[str, str, str]] = []
        self._open: dict[str, str | None] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        found = dict(attrs)
        self._open = found if found.get("class") == "token" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            style, title = self._open["style"], self._open["title"]
            self.tokens.append((data, style or "", title or ""))
            self._open = None


def _terminal(rows: Rows, limit: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=120)
    console.print(render_samples(rows, limit))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_model_text_is_escaped_and_nothing_is_loaded(sample_rows: Rows) -> None:
    html = samples_html(sample_rows)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<i>saw" not in html
    page = Page(html)
    assert page.tags.isdisjoint({"script", "link", "iframe", "i", "object"})
    assert {name for name, _ in page.attributes}.isdisjoint({"src", "href", "onclick"})
    assert not re.search(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html


def test_tokens_are_shaded_by_their_share_of_the_largest_reward(sample_rows: Rows) -> None:
    tokens = Page(samples_html(sample_rows)).tokens
    assert tokens[0][0] == " <script>alert(1)</script>"
    assert tokens[0][1] == "background: rgba(0, 114, 178, 0.500)"
    assert tokens[1][1] == "background: rgba(213, 94, 0, 1.000); color: #fff"
    assert tokens[3][0] == '"&'


def test_the_hover_text_holds_every_column(sample_rows: Rows) -> None:
    title = Page(samples_html(sample_rows)).tokens[1][2]
    assert title.split("\n") == [
        "token 1",
        "rewards: -1.0000",
        "shaped: -1.1000",
        "kl: +0.1000",
        "values: +0.3000",
        "advantages: -0.7000",
    ]


def test_rows_without_reward_are_not_shaded(sample_rows: Rows) -> None:
    row = sample_rows[0] | {"rewards": [0.0, 0.0]}
    assert {style for _, style, _ in Page(samples_html([row])).tokens} == {
        "background: rgba(0, 114, 178, 0.000)"
    }


def test_the_terminal_shades_tokens_and_takes_no_markup(sample_rows: Rows) -> None:
    shown = _terminal(sample_rows[:1], 1)
    assert "[red]fine[/red]" in shown
    # Half of the way from white to blue, and vermilion itself with white ink.
    assert "\x1b[38;2;0;0;0;48;2;128;184;216m <script>alert(1)</script>" in shown
    assert "\x1b[38;2;255;255;255;48;2;213;94;0m [red]fine[/red]" in shown
    assert "+1.25" in shown


def test_the_terminal_shows_the_last_rows_and_no_control_characters(sample_rows: Rows) -> None:
    shown = _terminal(sample_rows, 1)
    assert "-0.50" in shown
    assert "+1.25" not in shown
    assert "\x1b[2J" not in shown
    assert r"\x1b[2J" in shown
    assert "+1.25" not in _terminal(sample_rows, 0)


UNSEEN = "a\x00\x07\x08\x1b[31m\r\x7f\x85\x9b2J\u202etxt\u2066b\u2069\u200fé日\U0001f600\n\tend"


def test_nothing_unseen_reaches_terminal_or_page(sample_rows: Rows) -> None:
    rows = [sample_rows[0] | {"prompt": UNSEEN, "tokens": [UNSEEN, "\x1b]0;title\x07"]}]
    console = Console(file=io.StringIO(), width=200)  # no terminal: no escapes of rich's own
    console.print(render_samples(rows, 1))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    page = samples_html(rows)
    for text in (shown, page, visible(UNSEEN)):
        assert not re.search(
            r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", text
        )
    for escape in (r"\x1b[31m", r"\x0d", r"\x7f", r"\x85", r"\x9b2J", r"\x07", "U+202E", "U+2066"):
        assert escape in shown and escape in page, escape
    assert "é日😀" in shown and "é日😀" in page and "\n\tend" in page
    assert "é日😀\n\tend" in visible(UNSEEN)  # what people write stays
