"""`tokencredit revise`: some revisions with their edits marked, or what all of them would cost."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from tokencredit.commands.options import Components
from tokencredit.composing.chosen import chosen
from tokencredit.config import Config, load_plugins
from tokencredit.console import say, show, visible
from tokencredit.data.edits import KEPT, align
from tokencredit.data.revisions import Contest, Flaw, Revision, request, text_edit_ratio
from tokencredit.endpoint.messages import price
from tokencredit.pipeline.pipeline import all_stages, make
from tokencredit.reviser_settings import Backend, Reviser
from tokencredit.settings import PairSource
from tokencredit.stages.context import Context
from tokencredit.stages.revisions import SPLITS, Revising, RevisionsStage

PARTS: Final = re.compile(r"\s+|\w+|[^\w\s]")
"""What edits are shown in: words, punctuation marks, and the white space between them."""
PLAIN: Final = (("[-", "-]"), ("{+", "+}"))
"""Marks around what was taken out and what was put in, as `wdiff` has them."""
COLOURS: Final = (("\x1b[31;9m", "\x1b[0m"), ("\x1b[32;4m", "\x1b[0m"))
"""The same on a terminal: red and struck out, green and underlined."""
LONGEST: Final = 400
"""Characters of a prompt, its last ones."""
CHARACTERS: Final = 4
"""Of a token, about: enough for an estimate."""
REASON: Final = 60
"""Tokens of a reason and two markers, about."""


def revise(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As of `train`: GROUP=OPTION and KEY=VALUE.")
    ] = None,
    show_first: Annotated[
        int, typer.Option("--show", min=0, help="Revisions to print, with their edits marked.")
    ] = 5,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs to revise; left out: those that are shown."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask nothing; say how many calls, tokens, and cost.")
    ] = False,
    config_dir: Annotated[
        list[Path] | None,
        typer.Option(exists=True, file_okay=False, help="More YAML groups, laid out like conf/."),
    ] = None,
    plugin: Components = None,
) -> None:
    """Look at some revisions of rejected answers, or say what all of them would cost.

    The arguments are those of `train`, `reviser.*` among them. What a model replies is kept in the
    store, so the training that follows does not ask for it again.
    """
    load_plugins(plugin or [])
    config = chosen(overrides or [], config_dir or []).config
    config.plugins = list(plugin or [])
    context = Context(config)
    stage = RevisionsStage(context)
    if dry_run:
        show(estimate(stage, limit))
        return
    make(config, all_stages(context, stage.name)[:-1], stage.name)
    contests = stage.contests("revisions")[: limit or show_first]
    with stage.open() as reviser:
        found = reviser.revise(contests, "revise")
        colour = sys.stdout.isatty()
        show(page(contests, found, show_first, colour=colour, replied=reviser.replied))
        say(summary(found, reviser))


def page(
    contests: Sequence[Contest],
    found: Sequence[Revision | Flaw],
    most: int,
    *,
    colour: bool,
    replied: Callable[[Contest], str] = lambda _: "",
) -> str:
    """The first pairs with what became of them; of a dropped one, how what was `replied` begins."""
    blocks = []
    for contest, made in list(zip(contests, found, strict=True))[:most]:
        asked = contest.prompt.strip()
        shown = asked if len(asked) <= LONGEST else f"…{asked[-LONGEST:]}"
        lines = [f"row {contest.row}", f"prompt: {visible(shown)}"]
        if isinstance(made, Flaw):
            lines += [f"before: {visible(contest.rejected.strip())}", f"dropped: {made.value}"]
            reply = replied(contest).strip()
            begins = reply if len(reply) <= LONGEST else f"{reply[:LONGEST]}…"
            lines += [f"reply: {visible(begins)}"] if reply else []
        else:
            ratio = text_edit_ratio(contest.rejected, made.text)
            edits = marked(contest.rejected.strip(), made.text.strip(), colour=colour)
            lines.append(f"edits ({ratio:.2f}): {edits}")
            lines += [f"reason: {visible(made.reason)}"] if made.reason else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def marked(before: str, after: str, *, colour: bool) -> str:
    """Both texts in one, with marks around what was taken out and what was put in."""
    numbers: dict[str, int] = {}
    old, new = PARTS.findall(before), PARTS.findall(after)
    ids = [[numbers.setdefault(part, len(numbers)) for part in parts] for parts in (old, new)]
    left, right = align(*ids)
    kept, taken = _gaps(old, left)
    _, put = _gaps(new, right)
    marks = COLOURS if colour else PLAIN
    edits = ["".join(map(_between, gap, marks)) for gap in zip(taken, put, strict=True)]
    pairs = zip(edits, [*map(visible, kept), ""], strict=True)
    return "".join(edit + part for edit, part in pairs)


def _gaps(parts: Sequence[str], letters: str) -> tuple[list[str], list[str]]:
    """What was kept, and what stands before, between, and behind that, one text more."""
    kept, gaps = [], [""]
    for part, letter in zip(parts, letters, strict=True):
        if letter == KEPT:
            kept.append(part)
            gaps.append("")
        else:
            gaps[-1] += part
    return kept, gaps


def _between(text: str, marks: tuple[str, str]) -> str:
    return f"{marks[0]}{visible(text)}{marks[1]}" if text else ""


def summary(found: Sequence[Revision | Flaw], reviser: Revising) -> str:
    """How many were kept, why others were dropped, and what was paid now."""
    flaws = Counter(made.value for made in found if isinstance(made, Flaw))
    dropped = "".join(f", {count} dropped: {flaw}" for flaw, count in flaws.most_common())
    cost = "".join(f", {name} {value}" for name, value in reviser.cost().items())
    return f"{len(found)} pairs, {len(found) - flaws.total()} revised{dropped}{cost}"


def estimate(stage: RevisionsStage, limit: int | None) -> str:
    """Calls that are still to be made, their tokens, and their cost; nothing is asked.

    Of the pairs that the stage revises, held-out ones too, or of the first `limit`.
    """
    settings = stage.context.config.reviser
    if not settings.backend.asks:
        return f"reviser.backend = {settings.backend.value}: no calls, no tokens, no cost"
    missing = [each for each in all_stages(stage.context, stage.name)[:-1] if not each.is_there()]
    if settings.pairs is PairSource.sampled and missing:
        return (
            f"at most {_bound(stage.context.config, limit)} calls; their tokens are known once "
            f"these stages have run: {', '.join(each.name for each in missing)}"
        )
    names = list(SPLITS)[:1] if limit else SPLITS
    contests = [contest for name in names for contest in stage.contests(name)[:limit]]
    with stage.open() as reviser:
        assert reviser.asked is not None
        texts = {request(c, reviser.asked.text): c for c in contests}
        unknown = reviser.asked.unknown(contests)
    asked = sum(map(len, unknown)) // CHARACTERS
    replies = (len(texts[text].rejected) // CHARACTERS + REASON for text in unknown)
    said = sum(min(length, settings.max_tokens) for length in replies)
    return (
        f"{len(unknown)} calls ({len(texts) - len(unknown)} of {len(texts)} are answered already), "
        f"about {asked:,} tokens asked and {said:,} said, {_cost(settings, asked, said)}; a reply "
        f"without a revision is asked for again, reviser.reminders = {settings.reminders} times at "
        "most"
    )


def _bound(config: Config, limit: int | None) -> int:
    """The most pairs that can be sampled and are revised then."""
    train = min(config.dpo.prompts, config.reviser.limit or config.dpo.prompts)
    most = train + min(config.dpo.held_out, config.reviser.held_out)
    return min(most, limit or most)


def _cost(settings: Reviser, asked: int, said: int) -> str:
    """What so many tokens cost, as far as prices are known."""
    if settings.backend is Backend.local:
        return "no cost"
    paid = price(asked, said, settings.endpoint.prices)
    if paid is None:
        return "cost not known (reviser.endpoint.price_in, price_out)"
    return f"cost about {paid:.4f}"
