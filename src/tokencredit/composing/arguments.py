"""What the command line of `tokencredit train` asks for besides the configuration."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tokencredit.models.loading.model import Model, ModelSource
from tokencredit.store.artifacts import Plan
from tokencredit.user_code.plugins import conf_dir

MAX_FAILURES = "hydra.sweeper.max_failure_rate="


@dataclass(slots=True)
class Request:
    """Plug-ins, overrides, and whether to plan; and what planning a sweep has found so far."""

    plugins: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    """As they were typed."""
    plan_only: bool = False
    plans: list[Plan] = field(default_factory=list)
    """Filled in while a sweep is planned."""
    mistakes: int = 0
    """Cells that could not even be planned."""
    scratch: tempfile.TemporaryDirectory[str] | None = None

    def counts_failures(self) -> bool:
        """Whether Optuna is told which share of failed cells ends the sweep."""
        return any(text.startswith(MAX_FAILURES) for text in self.overrides)


def shown_name(model: Model) -> str:
    """`model.name`, unless it is that of an option whose policy another model has replaced.

    A model of the user's own is called as its folder, its file, or its repository on the hub. A
    name that no option of the package has was given on purpose, and stays.
    """
    source, shipped = model.policy, Model()
    if not (conf_dir() / "model" / f"{model.name}.yaml").is_file():
        return model.name
    if source.source is ModelSource.path and source.path:
        place = Path(source.path).expanduser().absolute()
        return (place.stem if source.is_gguf() else place.name) or model.name
    if model.name != shipped.name or source == shipped.policy:
        return model.name
    return (source.name or source.source.value).rpartition("/")[2]
