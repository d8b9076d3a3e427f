"""The scorer that is the judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge, OpenJudge

if TYPE_CHECKING:
    from tokencredit.context import Context
    from tokencredit.stages.actors import Actors


@dataclass(slots=True, kw_only=True)
class SameAsJudge(Judge):
    """`scorer=judge`: the scores come from the judge itself."""

    def open(self, context: Context, actors: Actors) -> OpenJudge:
        """Never called: the panel opens the judge once."""
        raise UserError("judge = judge: only a scorer can be the judge; name a judge of its own")
