"""What the model of a run is called where people read of it."""

from __future__ import annotations

from pathlib import Path

from tokencredit.models.loading.model import Model, ModelSource
from tokencredit.user_code.plugins import conf_dir


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
