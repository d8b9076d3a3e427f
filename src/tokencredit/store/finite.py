"""Whether numbers are numbers: of settings, of weights in memory and in files, of figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.canonical import flatten
from tokencredit.errors import UserError, require

if TYPE_CHECKING:
    from torch import Tensor

    Named = Iterable[tuple[str, Tensor]]


def first_not_finite(tensors: Named) -> str | None:
    """The name of the first tensor that holds NaN or an infinity; None if there is none."""
    for name, tensor in tensors:
        if tensor.is_floating_point():
            # torch cannot ask this of eight bits
            wide = tensor.float() if tensor.element_size() == 1 else tensor
            if not bool(wide.isfinite().all()):
                return name
    return None


def stored_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of every safetensors file below `folder`, by name, one in memory at a time."""
    for path in sorted(folder.rglob("*.safetensors")):
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)


def check_settings(tree: object) -> None:
    """Raise for a number of a configuration that is infinite or not a number."""
    for path, value in flatten(tree).items():
        fits = not isinstance(value, float) or math.isfinite(value)
        require(fits, path, value, "must be a finite number")


def check_scores(stage: str, scores: Tensor) -> None:
    """Raise if a model's scores, or margins, of texts are not all finite."""
    bad = int((~scores.isfinite()).sum())
    if bad:
        raise UserError(
            f"{stage}: {bad} of {scores.numel()} scores are not finite, so nothing is kept; if the "
            "model was trained here, lower its learning_rate, else compute in another number "
            "format (model.dtype=float32)"
        )


def figure_not_finite(figures: Mapping[str, object]) -> str | None:
    """The first of these numbers that is none, as `name = value`; None if all are."""
    for name, value in flatten(figures).items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} = {value}"
    return None
