"""Where a run is mirrored besides its own folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tokencredit.errors import require
from tokencredit.fields import added

_FORBIDDEN_IN_NAMES = frozenset("/\\#?%:")
LONGEST_NAME = 128
LONGEST_TAG = 64
_LONGEST_WAIT_SECONDS = 600


class WandbMode(str, Enum):
    """What is done with W&B."""

    auto = "auto"
    """Online where a key is configured and the server answers in time, else offline."""
    offline = "offline"
    """Into `wandb/` of the run folder, for `wandb sync` later."""
    online = "online"
    """To the server, or an error."""
    disabled = "disabled"
    """Not at all; wandb is not even imported."""


@dataclass(slots=True, kw_only=True)
class Tracking:
    """The W&B mirror of a run; the JSONL files of the run folder are written whatever stands here.

    Nothing in here changes a result, so it is not part of a run's key.
    """

    mode: WandbMode = WandbMode.auto
    """auto, offline, online, or disabled."""

    project: str = "tokencredit"
    """W&B project."""

    entity: str | None = None
    """W&B user or team; empty means the default of the API key."""

    timeout_seconds: float = 10.0
    """Longest wait for W&B in seconds, once when a run starts and once when it ends."""

    tags: list[str] = field(default_factory=list)
    """W&B tags of the run; scheme, model, data, algorithm, and experiment are added."""

    group: str | None = added(None)
    """W&B group; null: the experiment, else the sweep, else scheme, model, and data."""

    job_type: str | None = added(None)
    """W&B job type; null: pilot for a pilot, else the last stage of the run (rl, dpo, or sft)."""

    def __post_init__(self) -> None:
        """Check every field; raises UserError."""
        for key, name in (("project", self.project), ("entity", self.entity)):
            if name is not None:
                fits = 0 < len(name) <= LONGEST_NAME and not _FORBIDDEN_IN_NAMES & set(name)
                rule = f"must have 1 to {LONGEST_NAME} characters, none of / \\ # ? % :"
                require(fits, f"tracking.{key}", name, rule)
        require(
            0 < self.timeout_seconds <= _LONGEST_WAIT_SECONDS,
            "tracking.timeout_seconds",
            self.timeout_seconds,
            f"must lie in (0, {_LONGEST_WAIT_SECONDS}] seconds",
        )
        for key, text in (("group", self.group), ("job_type", self.job_type)):
            fits = text is None or 0 < len(text) <= LONGEST_NAME
            require(
                fits,
                f"tracking.{key}",
                text,
                f"must be null or have 1 to {LONGEST_NAME} characters",
            )
        for index, tag in enumerate(self.tags):
            require(
                0 < len(tag) <= LONGEST_TAG,
                f"tracking.tags[{index}]",
                tag,
                f"must have 1 to {LONGEST_TAG} characters",
            )
