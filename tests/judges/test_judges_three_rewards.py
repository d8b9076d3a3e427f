"""Answers under three rewards: a response is scored as it ended, as when it was paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tokencredit
from built_stages import build, furnish, stage_of
from scripts import loaded
from tokencredit.errors import UserError

SCRIPT = Path(__file__).parents[2] / "experiments" / "tlcr" / "rewards.py"
KINDS = {"bradley_terry": "reward model of the run's pairs", "discriminator": "discriminator"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = furnish(tmp_path_factory.mktemp("place"))
    store = place / "store"
    return {role: build(stage_of(kind, place, store)).path for role, kind in KINDS.items()}


def row(response: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "it was", "sft/response": response, **more}


def test_only_what_ended_by_itself_has_an_end_token(models: dict[str, Path]) -> None:
    text = " a good film"
    rows = [row(text, **{"sft/finished": ended}) for ended in (False, True)]
    found = loaded(SCRIPT).scored(rows, "sft", models)
    judges = {"sequence": "bradley_terry", "fixed": "discriminator", "continuous": "discriminator"}
    schemes = {"sequence": "sparse", "fixed": "tlcr_fixed", "continuous": "tlcr"}
    for name, (capped, ended) in found.items():
        given = {"judge": judges[name], "scheme": schemes[name], "scorer": "judge"}
        folder = {judges[name]: models[judges[name]]}
        for score, finished in ((capped, False), (ended, True)):
            one = tokencredit.credit(
                ["it was"], [text], finished=finished, artifacts=folder, **given
            )  # fmt: skip
            assert score == pytest.approx(sum(one.rewards[0]), rel=1e-4)
    capped, ended = found["sequence"]
    assert capped != pytest.approx(ended, abs=1e-4)


def test_runs_that_do_not_say_how_responses_ended_are_refused(models: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"do not say which responses ended .* results\.json"):
        loaded(SCRIPT).scored([row(" a good film")], "sft", models)
