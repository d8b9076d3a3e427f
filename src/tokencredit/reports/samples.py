"""What policies answer: samples with the reward of every token in colour, and beside SFT's."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from tokencredit.console import aligned, visible
from tokencredit.statistics.rounding import rounded
from tokencredit.store.files import reading
from tokencredit.store.run_folder import EVALUATION, RunFolder

Row = Mapping[str, Any]

# Blue for credit, vermilion for blame: told apart with every common colour blindness.
_CREDIT = (0, 114, 178)
_BLAME = (213, 94, 0)
_COLUMNS = ("rewards", "shaped", "kl", "values", "advantages", "evidence")
_DARK_ENOUGH = 0.55
MODELS: Final = {"sft": "SFT", "policy": "policy"}
OPINIONS: Final = {"score": "score", "oracle": "oracle"}
SHOWN: Final = 3
"""Prompts, the first of the evaluation."""
PAID: Final = "reward that it was paid"
LONGEST: Final = 600
"""Characters of a text on a terminal."""
WIDTH: Final = 120
"""Columns of what is printed into a file or a pipe."""
_SVG: Final = """\
<svg viewBox="0 0 {terminal_width} {terminal_height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px monospace; }}
{styles}
</style>
<defs>
{lines}
</defs>
<rect width="100%" height="100%" fill="#ffffff"/>
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</svg>
"""


def render_samples(rows: Sequence[Row], limit: int) -> Table:
    """Return a terminal table of the last `limit` rows, tokens shaded by their reward.

    Blue tokens earned, vermilion tokens lost; the shade is the reward's share of the largest one
    in the table.
    """
    chosen = rows[-limit:] if limit > 0 else []
    scale = _largest_reward(chosen)
    table = Table(show_lines=True, expand=True)
    place = "step" if all("step" in row for row in chosen) else "row"
    table.add_column(place, justify="right")
    table.add_column("score", justify="right")
    table.add_column("prompt → response, shaded by token reward", ratio=1)
    for row in chosen:
        # Text and its append, unlike strings, are not read as rich's markup.
        text = Text().append(_printable(row["prompt"]), style="dim")
        for token, reward in zip(row["tokens"], row["rewards"], strict=True):
            text.append(_printable(token), style=_shade(reward / scale))
        table.add_row(str(row[place]), f"{row['score']:+.2f}", text)
    return table


def samples_html(rows: Sequence[Row], title: str = "Samples") -> str:
    """Return a page that needs no other file: tokens shaded by reward, their numbers on hover.

    All text is escaped, and the page's own policy forbids scripts and anything from elsewhere.
    """
    return coloured_html(title, sample_views(rows), PAID)


def coloured_html(title: str, views: Sequence[Row], what: str) -> str:
    """Return a page of texts as `sample_views` gives them; `what` says what shades their tokens."""
    return render("samples.html", title=title, samples=views, what=what)


def samples_fragment(rows: Sequence[Row]) -> str:
    """Return the same as a part of somebody else's page, whose looks it leaves alone."""
    return render("fragment.html", samples=sample_views(rows))


def samples_svg(rows: Sequence[Row]) -> str:
    """Return the terminal's table as a picture that needs no other file."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH)
    console.print(render_samples(rows, len(rows)))
    return console.export_svg(theme=DEFAULT_TERMINAL_THEME, code_format=_SVG, unique_id="samples")


def sample_views(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what the template shows of each row, tokens with shade and hover text."""
    scale = _largest_reward(rows)
    return [
        {
            "about": [
                *([f"step {row['step']}"] if "step" in row else []),
                f"row {row['row']}",
                f"score {row['score']:+.3f}",
            ],
            "prompt": visible(row["prompt"]),
            "tokens": [
                {
                    "text": visible(token),
                    "style": css(row["rewards"][t] / scale),
                    "title": _hover(row, t),
                }
                for t, token in enumerate(row["tokens"])
            ],
        }
        for row in rows
    ]


def _printable(text: str) -> str:
    """Return `text` as a cell of a terminal's table shows it: a tab has no place to move to."""
    return visible(text).replace("\t", "␉")


def _largest_reward(rows: Sequence[Row]) -> float:
    return max((abs(reward) for row in rows for reward in row["rewards"]), default=0.0) or 1.0


def _hover(row: Row, t: int) -> str:
    lines = [f"{name}: {row[name][t]:+.4f}" for name in _COLUMNS if name in row]
    return "\n".join([f"token {t}", *lines])


def css(share: float) -> str:
    """Return the colour of a share in [-1, 1] as a page has it."""
    red, green, blue = _CREDIT if share >= 0 else _BLAME
    ink = "; color: #fff" if abs(share) > _DARK_ENOUGH else ""
    return f"background: rgba({red}, {green}, {blue}, {abs(share):.3f}){ink}"


def painted(share: float) -> tuple[str, str]:
    """Return ink and ground of a share in [-1, 1]; the ground fades to white, as a page's does."""
    target = _CREDIT if share >= 0 else _BLAME
    red, green, blue = (round(255 + (channel - 255) * abs(share)) for channel in target)
    ink = "#ffffff" if abs(share) > _DARK_ENOUGH else "#000000"
    return ink, f"#{red:02x}{green:02x}{blue:02x}"


def _shade(share: float) -> Style:
    return Style.parse(" on ".join(painted(share)))


def render(template: str, **values: Any) -> str:
    """Return the page of `templates/`, in which every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tokencredit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def embedded(pictures: Sequence[Path]) -> list[dict[str, str]]:
    """The pictures of a page that needs no other file: name and content in Base64."""
    return [
        {"name": path.stem, "data": base64.b64encode(path.read_bytes()).decode()}
        for path in pictures
    ]


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` with their columns aligned; a row of one cell is a line of its own."""
    return "\n".join(f"  {line}".rstrip() for line in aligned(rows, gap="   ", left=True))


def print_continuations(run_dir: str | Path) -> None:
    """Print the table of a run to standard output; nothing before the run has been evaluated."""
    rows = continuations(RunFolder.logged(run_dir))
    if rows:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(continuations_table(rows))


def continuations(run: RunFolder) -> list[dict[str, Any]]:
    """Return the first prompts of the evaluation, of each the text and what each model said.

    {"prompt": str, "sft": str, "policy": str, "sft/opinion": str, "policy/opinion": str}; an
    opinion is the score that was paid for and the oracle's rating, as far as they are known.
    Characters that would act on a terminal or page are escaped.
    """
    with reading(run.path / EVALUATION):
        return [
            {
                "prompt": visible(row["prompt"]),
                **{model: visible(row[f"{model}/response"]) for model in MODELS},
                **{f"{model}/opinion": _opinion(row, model) for model in MODELS},
            }
            for row in run.evaluation[:SHOWN]
        ]


def continuations_table(rows: Sequence[Row]) -> Table:
    """Return a terminal table, one row a prompt; of long texts it has the part next to the seam."""
    table = Table(show_lines=True, expand=True, title="held-out prompts", title_justify="left")
    for name in ("prompt", *MODELS.values()):
        table.add_column(name, ratio=1, overflow="fold")
    for row in rows:
        # Text, unlike a string, is not read as rich's markup.
        cells = [Text(_ending(row["prompt"]), style="dim")]
        for model in MODELS:
            said = Text(_beginning(row[model]))
            cells.append(said.append(f"\n{row[f'{model}/opinion']}", style="dim"))
        table.add_row(*cells)
    return table


def _opinion(row: Row, model: str) -> str:
    """What is thought of a response, e.g. `score +1.500, oracle -0.250`."""
    known = {name: row.get(f"{model}/{key}") for key, name in OPINIONS.items()}
    said = {name: rounded(x, signed=True) for name, x in known.items() if x is not None}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _ending(text: str) -> str:
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"


def _beginning(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
