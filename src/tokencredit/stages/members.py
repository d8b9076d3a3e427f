"""The members of an ensemble of reward models: what sets them apart, and which stages make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokencredit.streams import integer, stream_key

if TYPE_CHECKING:
    from tokencredit.context import Context
    from tokencredit.stages.stage import Stage


def member_seed(stage_seed: int, member: int) -> int:
    """The seed of a member: its fresh head, the order and the windows of its texts.

    Member 0 has `stage_seed` itself. The others draw theirs, so that ensembles of neighbouring
    stage seeds share no member, as `stage_seed` + `member` would have it.
    """
    if member == 0:
        return stage_seed
    return integer(stream_key(stage_seed, "reward model", member), 0, 2**31)


def member_stages(context: Context, members: int) -> dict[str, Stage]:
    """The reward model and `members` − 1 more like it, by role."""
    from tokencredit.stages.reward_model import RewardModelStage

    return {
        f"reward_model_{member}" if member else "reward_model": RewardModelStage(context, member)
        for member in range(members)
    }
