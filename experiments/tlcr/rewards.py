"""The held-out answers of finished runs under three rewards (Yoon et al. 2024, Figure 6).

    python experiments/tlcr/rewards.py runs/tlcr/main --keep experiments/tlcr/reward_comparison

Scored are the answers that each run gave after training, and once a seed those of the SFT model:
by the reward model of the pairs (a sequence), and by the discriminator, whose fixed (+1, −1, 0) and
continuous (2 D − 1) rewards of tokens are summed. Both models are those of the run's own stage
seed, so no method is scored by models that others were not. `tokencredit table tlcr/figure6` shows
the means, `tokencredit page tlcr/reward_comparison` the verdicts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import tokencredit
from tokencredit.errors import UserError
from tokencredit.evaluation.compare.players import Run, evaluated_runs
from tokencredit.judges.bradley_terry import BradleyTerryJudge, Preference
from tokencredit.papers.scores import FACTS, SCORES, Line, write_scores
from tokencredit.store.files import write_json
from tokencredit.store.run_folder import RunFolder
from tokencredit.surface.credited import Credit

SEQUENCE: Final = "bradley_terry"
TOKENS: Final = "discriminator"


def paid(credit: Credit) -> list[float]:
    """What each response is paid, summed over its tokens."""
    return [sum(rewards) for rewards in credit.rewards]


def said_scores(credit: Credit) -> list[float]:
    """The score of each whole response."""
    return credit.scores


MEASURES: Final[dict[str, tuple[str, str, Callable[[Credit], list[float]]]]] = {
    "sequence": (SEQUENCE, "sparse", said_scores),
    "fixed": (TOKENS, "tlcr_fixed", paid),
    "continuous": (TOKENS, "tlcr", paid),
}
"""The judge of each reward, the scheme, and which of its numbers counts."""


def models_of(runs: Sequence[Run], seed: int) -> dict[str, Path]:
    """The two models of a stage seed, from whichever runs were trained by them."""
    found: dict[str, Path] = {}
    for run in runs:
        judge = run.config.judge
        revised = isinstance(judge, BradleyTerryJudge) and judge.pairs is Preference.revised
        for role in (SEQUENCE, TOKENS):
            if role in run.parents and not (role == SEQUENCE and revised):
                found.setdefault(role, run.artifact(role))
    missing = [role for role in (SEQUENCE, TOKENS) if role not in found]
    if missing:
        raise UserError(
            f"stage_seed = {seed}: no run there was trained by a {' or a '.join(missing)} of the "
            "pairs; name runs of ppo_seq and of tlcr too"
        )
    return found


def scored(
    rows: Sequence[Mapping[str, Any]], model: str, models: Mapping[str, Path]
) -> dict[str, list[float]]:
    """The three rewards of what a model has said, by name; a response that the length limit ended
    has no end token, as when it was paid."""
    if any(f"{model}/finished" not in row for row in rows):
        raise UserError(
            "the runs do not say which responses ended by themselves: they were evaluated by an "
            "earlier version; delete their results.json, and train evaluates them again"
        )
    prompts = [str(row["prompt"]) for row in rows]
    responses = [str(row[f"{model}/response"]) for row in rows]
    finished = [bool(row[f"{model}/finished"]) for row in rows]
    found = {}
    for name, (judge, scheme, number) in MEASURES.items():
        credit = tokencredit.credit(
            prompts,
            responses,
            finished=finished,
            judge=judge,
            scheme=scheme,
            scorer="judge",
            artifacts={judge: models[judge]},
        )
        found[name] = number(credit)
    return found


def main() -> int:
    """Score, and write a folder for each reward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, or folders of them")
    parser.add_argument("--keep", type=Path, required=True, help="write scores.csv of each here")
    given = parser.parse_args()
    by_seed: dict[int, list[Run]] = {}
    for run in evaluated_runs(given.runs):
        by_seed.setdefault(run.config.stage_seed, []).append(run)
    lines: dict[str, list[Line]] = {name: [] for name in MEASURES}
    for seed, runs in sorted(by_seed.items()):
        models = models_of(runs, seed)
        asked = [(run, "policy", run.scheme) for run in runs]
        if all(run.scheme != "sft" for run in runs):
            asked.append((runs[0], "sft", "sft"))
        for run, model, method in asked:
            rows = RunFolder(run.path).evaluation
            for name, scores in scored(rows, model, models).items():
                lines[name] += [
                    (method, run.config.seed, int(row["row"]), score)
                    for row, score in zip(rows, scores, strict=True)
                ]
            print(f"seed {run.config.seed}: {method}, {len(rows)} answers", flush=True)
    every = [run for runs in by_seed.values() for run in runs]
    about = {" ".join(filter(None, (r.config.run.scale, r.config.model.name))) for r in every}
    for name, own in lines.items():
        write_scores(own, given.keep / name / SCORES)
        facts = {"schema_version": 1, "about": ", ".join(sorted(about)), "oracle": {"name": name}}
        write_json(given.keep / name / FACTS, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
