"""The policy as others can load it, and the value function beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokencredit.models.actors import Actors
from tokencredit.models.adapters.lora import POLICY, Lora, merged_copy
from tokencredit.models.critic import save_value
from tokencredit.rl.update import WeightsNotFinite
from tokencredit.store.files import building
from tokencredit.store.finite import first_not_finite, stored_tensors


def export_policy(actors: Actors, lora: Lora, run_folder: Path, name: str = "policy") -> None:
    """Write `policy/`, a plain Hugging Face folder, and `value/`, the value function beside it.

    With `name` policy_best they are `policy_best/` and `value_best/`. An algorithm without a value
    function leaves no `value/`.
    """
    with _exporting(run_folder / name) as partial:
        model = actors.policy.model
        if lora.enabled and lora.merge:
            merged_copy(model).save_pretrained(partial)
        elif lora.enabled:
            model.save_pretrained(partial, selected_adapters=[POLICY])
        else:
            model.save_pretrained(partial)
        actors.tokenizer.save_pretrained(partial)
    if actors.policy.uses_values:
        with _exporting(run_folder / name.replace("policy", "value")) as partial:
            save_value(actors.policy, partial)


@contextmanager
def _exporting(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` once it is filled with finite weights."""
    with building(folder.with_name(f"{folder.name}.partial"), folder) as partial:
        yield partial
        tensor = first_not_finite(stored_tensors(partial))
        if tensor is not None:
            raise WeightsNotFinite(tensor, f"{folder.name}/")
