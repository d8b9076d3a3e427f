"""Every reward scheme of the package, listed once. Apart, so that a new one is a line here and none
of the configuration."""

from __future__ import annotations

from typing import Final

from tokencredit.rewards.attribution import Attribution
from tokencredit.rewards.controls import CONTROLS
from tokencredit.rewards.implicit import IMPLICIT
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.tlcr import TLCR_SCHEMES
from tokencredit.rewards.uniform import Uniform

SCHEMES: Final[tuple[type[RewardScheme], ...]] = (
    *(Sparse, Uniform, *CONTROLS),
    *(Redistribute, Attribution, *IMPLICIT, *TLCR_SCHEMES),
)
