"""What credit came to: numbers of every token, and how they look."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Bool, Float
from rich.console import Console

from tokencredit.errors import require
from tokencredit.models.tokens.texts import decode
from tokencredit.reports.samples import (
    render_samples,
    samples_fragment,
    samples_html,
    samples_svg,
)
from tokencredit.rollout import Judgement, Rollout
from tokencredit.store.files import write_rows, write_text
from tokencredit.surface.texts import pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Numbers = list[list[Any]]
ENDINGS: Final = {".html": "a page", ".svg": "a picture", ".jsonl": "all numbers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """The credit of some responses: plain lists, in the order in which they were given.

    In a notebook it is its picture.
    """

    prompts: list[str] = field(repr=False)
    """Their text, special tokens left out."""
    ids: list[list[int]] = field(repr=False)
    """The token ids of each response, the end token with them."""
    tokens: list[list[str]] = field(repr=False)
    """The piece of text of each token."""
    evidence: list[list[float]] = field(repr=False)
    """What the judge says of each token."""
    rewards: list[list[float]] = field(repr=False)
    """What the scheme pays each token."""
    scores: list[float]
    """The scorer's score of each response."""
    finished: list[bool] = field(repr=False)
    """Whether it ended by itself."""
    notes: dict[str, list[float]] = field(repr=False)
    """Further numbers that the judge gave of each response, by name."""

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        rollout: Rollout,
        judgement: Judgement,
        rewards: Float[torch.Tensor, "B T"],
    ) -> Credit:
        """The counting tokens' numbers of a batch."""
        counting = rollout.response_mask
        notes = {} if judgement.notes is None else judgement.notes.columns
        return cls(
            prompts=decode(tokenizer, rollout.prompt_ids, rollout.prompt_mask),
            ids=_kept(rollout.response_ids, counting),
            tokens=pieces(tokenizer, rollout),
            evidence=_kept(judgement.evidence, counting),
            rewards=_kept(rewards, counting),
            scores=judgement.scores.tolist(),
            finished=rollout.finished.tolist(),
            notes={name: column.tolist() for name, column in notes.items()},
        )

    def __len__(self) -> int:
        """Number of responses."""
        return len(self.scores)

    def rows(self) -> list[Row]:
        """One mapping a response; what a run's samples.jsonl has too is called as it is there."""
        return [
            {
                "row": row,
                "prompt": self.prompts[row],
                "score": self.scores[row],
                "finished": self.finished[row],
                "ids": self.ids[row],
                "tokens": self.tokens[row],
                "rewards": self.rewards[row],
                "evidence": self.evidence[row],
                **{name: values[row] for name, values in self.notes.items()},
            }
            for row in range(len(self))
        ]

    def html(self) -> str:
        """A page that needs no other file: tokens shaded by their reward, their numbers on hover.

        All text is escaped, and nothing in it can run.
        """
        return samples_html(self.rows(), title="Credit")

    def save(self, path: str | Path) -> Path:
        """Write a page (.html), a picture of it (.svg), or the rows as JSON lines (.jsonl)."""
        place = Path(path)
        check_ending(place)
        if place.suffix == ".jsonl":
            write_rows(place, self.rows())
        else:
            write_text(place, self.html() if place.suffix == ".html" else samples_svg(self.rows()))
        return place

    def show(self) -> None:
        """Show it: in a notebook as a picture, on a terminal as a table in the same colours."""
        notebook = sys.modules.get("IPython")
        if notebook is not None and notebook.get_ipython() is not None:
            notebook.display.display(self)
        else:
            Console().print(render_samples(self.rows(), len(self)))

    def _repr_html_(self) -> str:
        return samples_fragment(self.rows())


def check_ending(path: Path) -> None:
    """Raise unless `Credit.save` knows what to write there."""
    require(
        path.suffix in ENDINGS,
        "path",
        str(path),
        f"ends with none of {', '.join(f'{end} ({what})' for end, what in ENDINGS.items())}",
    )


def _kept(values: torch.Tensor, counting: Bool[torch.Tensor, "B T"]) -> Numbers:
    """Each row's values where a token counts."""
    return [row[mask].tolist() for row, mask in zip(values, counting, strict=True)]
