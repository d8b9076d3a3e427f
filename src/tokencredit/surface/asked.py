"""Which judge, scorer, and scheme somebody asks for, as the configuration of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tokencredit.composing.chosen import composed
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge
from tokencredit.rewards.scheme import RewardScheme

READ: Final = (
    "judge.",
    "scorer.",
    "reward_scheme.",
    "rollout.",
    "dpo.beta",
    "model.dtype",
    "model.reward_reads",
    "reward_model.score_at",
    "dataset.special_tokens",
    "run.function_seconds",
)
"""Keys, and sections of them, that credit depends on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Names as in `GROUP=NAME`, or components themselves."""

    scheme: str | RewardScheme
    judge: str | Judge | None = None
    """None: the scheme's own."""
    scorer: str | Judge | None = None
    """None: the reward model, or what the judge's option sets."""
    overrides: Sequence[str] = ()
    config_dirs: Sequence[Path] = ()

    def config(self, device: str = "cpu") -> Config:
        """The configuration in which a run would use them; raises what the run would say."""
        for override in self.overrides:
            key = override.partition("=")[0]
            if not key.startswith(READ):
                known = ", ".join(name + "*" * name.endswith(".") for name in READ)
                raise UserError(f"{key}: is none of the keys that credit reads ({known})")
        parts = {"reward_scheme": self.scheme, "judge": self.judge, "scorer": self.scorer}
        own: dict[str, Any] = {
            group: part for group, part in parts.items() if isinstance(part, Judge | RewardScheme)
        }
        names = {group: part for group, part in parts.items() if isinstance(part, str)}
        if "reward_scheme" in own:
            names["reward_scheme"] = "sparse"  # its place until then; it fits every judge
        choices = [f"{group}={name}" for group, name in names.items()]
        config = composed(
            [*choices, f"hardware.device={device}", *self.overrides], self.config_dirs
        )
        config.run.scheme = self.scheme if isinstance(self.scheme, str) else ""
        config.hardware.check()
        config = replace(config, **own)
        for part in (config.reward_scheme, config.judge, config.scorer):
            part.check()
        return config
