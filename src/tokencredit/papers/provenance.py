"""Whether runs are of one recipe, equal in all but their seeds, and what weights rated them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokencredit.canonical import differences


@dataclass(frozen=True, slots=True)
class Made:
    """How a run was made, as far as it says so."""

    identity: Mapping[str, Any] | None = None
    """What its key is a hash of; None where that is unknown."""
    recipes: Mapping[str, str] | None = None
    """Of each stage before it, a hash of its identity without seeds; None where unknown."""
    stage_seed: int | None = None
    """Seed of the stages before it; runs that differ in it have models of their own."""
    weights: Mapping[str, str] | None = None
    """Of each stage before it, a hash of the files that it made, by role; None where unknown."""

    def scorers(self) -> dict[str, str]:
        """The hashes of what rated its responses, paid scorer and oracle, by role."""
        inputs = (self.identity or {}).get("inputs") or {}
        by_dpo = (inputs.get("scorer") or {}).get("class") == "ImplicitJudge"
        others = {"sft", "policy"} if by_dpo else {"sft", "policy", "dpo"}
        return {role: sha for role, sha in (self.weights or {}).items() if role not in others}


def made_of(record: Mapping[str, Any]) -> Made:
    """From the manifest of a run, or what is kept of it beside a committed cell."""
    seeds, weights = record.get("seeds") or {}, record.get("weights")
    if weights is None:  # a cell keeps them with the keys
        parents = (record.get("parents") or {}).items()
        weights = {r: p["sha256"] for r, p in parents if isinstance(p, dict) and p.get("sha256")}
    identity, recipes = record.get("identity"), record.get("recipes")
    return Made(identity, recipes, seeds.get("stage_seed"), weights or None)


def beyond_seeds(a: Made, b: Made) -> list[str]:
    """The settings in which two runs differ, their seeds and what follows from them aside.

    With one stage seed the stages before must be the same artifacts, else of the same recipes.
    """
    leaves = differences(a.identity, b.identity)
    if a.stage_seed != b.stage_seed:
        leaves = [leaf for leaf in leaves if not leaf.startswith("parents.")]
        if a.recipes is not None and b.recipes is not None:
            leaves += differences({"recipes": a.recipes}, {"recipes": b.recipes})
    return [leaf for leaf in leaves if not leaf.startswith("inputs.seed:")]
