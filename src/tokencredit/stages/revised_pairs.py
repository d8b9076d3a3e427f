"""Revised over rejected answers as token ids: what is learnt from the stage `revisions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tokencredit.console import say
from tokencredit.data.pairs import Pair, read_pairs
from tokencredit.data.revisions import record_of
from tokencredit.data.token_ids import TokenIds
from tokencredit.settings import PairSource
from tokencredit.stages.context import Context
from tokencredit.stages.revisions import SPLITS, RevisionsStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.stage import Stage
from tokencredit.store.files import reading
from tokencredit.store.jsonl import read_jsonl


def revised_parents(context: Context) -> dict[str, Stage]:
    """The revisions; and the sampled pairs that they are of, which know where answers were cut."""
    parents: dict[str, Stage] = {"revisions": RevisionsStage(context)}
    if context.config.reviser.pairs is PairSource.sampled:
        parents["sampled_pairs"] = SampledPairsStage(context)
    return parents


def read_revised(
    stage: Stage, name: str, ids: TokenIds, longest: int
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs in a file of the revisions ("revisions" or "held_out"), the revised answer as the
    chosen one, and how many were left out, and for what.

    A pair is never cut. Where `stage` has the sampled pairs among its parents, an answer that the
    length limit cut has no end token, and its revision has none; else all have one.
    """
    with reading(path := stage.made("revisions") / f"{name}.jsonl"):
        rows = read_jsonl(path)
    cut = _cut(stage.made("sampled_pairs"), name, ids) if "sampled_pairs" in stage.parents() else {}
    pairs: list[Pair] = []
    noted = Counter[str]()
    for whole in (True, False):
        some = [row for row in rows if cut.get(_names(row), False) is not whole]
        found, counts = read_pairs([record_of(row) for row in some], ids, longest)
        pairs += found if whole else map(without_end, found)
        noted += counts
    if noted["too long"]:
        say(
            f"{stage.name.replace('_', ' ')}: {noted['too long']} of {len(rows)} pairs ({name}) "
            f"are left out, longer than {longest} tokens"
        )
    return pairs, dict(noted)


def without_end(pair: Pair) -> Pair:
    """The pair without the last token of each answer."""
    return replace(pair, chosen_ids=pair.chosen_ids[:-1], rejected_ids=pair.rejected_ids[:-1])


def _cut(folder: Path, name: str, ids: TokenIds) -> dict[tuple[str, str], bool]:
    """Whether the rejected answer of each sampled pair was cut: it has no end token."""
    with reading(path := folder / f"{SPLITS[name]}.jsonl"):
        rows = read_jsonl(path)
    ends = {ids.end, ids.turn_end}
    return {_names(row): row["rejected_ids"][-1] not in ends for row in rows}


def _names(row: Mapping[str, object]) -> tuple[str, str]:
    """What tells a pair from the others in both files."""
    return str(row["prompt"]), str(row["rejected"])
