"""What a finished run leaves besides its policy: results to read, figures to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tokencredit.console import say
from tokencredit.errors import UserError
from tokencredit.reports.summary import write_report
from tokencredit.rl.compute import scored_responses
from tokencredit.rl.evaluate import HEADLINE, Measure, summarise
from tokencredit.rl.update import NotFinite
from tokencredit.settings import PairSource
from tokencredit.store.files import write_json
from tokencredit.store.run_folder import COMPLETE, RESULTS, RunFolder, State
from tokencredit.tracking.tracker import Tracker

if TYPE_CHECKING:
    from tokencredit.config import Config
    from tokencredit.stages.scorers import Accuracy

LAST_STEPS = 10
Record = dict[str, Any]
"""What a JSON file of ours says, by its keys."""


def seconds_of_steps(run_folder: Path) -> float:
    """The sum of all phases of all steps logged so far."""
    rows = RunFolder(run_folder).timings
    phases = [row[key] for row in rows for key in row if key.startswith("time/")]
    return float(sum(phases))


def write_results(
    run: RunFolder,
    config: Config,
    key: str,
    evaluation: dict[str, Measure],
    seconds: float,
    scorers: Mapping[str, Accuracy],
) -> dict[str, Any]:
    """Write results.json: the last ten steps of the log, the evaluation, how right scorers are."""
    rows = RunFolder(run.path).metrics[: config.steps]
    last = rows[-LAST_STEPS:]
    metrics = {
        name: summarise(torch.tensor([row[name] for row in last]))
        for name in HEADLINE
        if name in rows[0]
    }
    results = {
        **called(config, key, config.seed),
        "status": COMPLETE,
        "steps": len(rows),
        "scale": config.run.scale,
        "git_commit": run.manifest().get("git_commit"),
        "wall_seconds": round(seconds, 3),
        "scored_samples": scored_samples(config, len(rows)),
        "metrics": metrics,
        "evaluation": evaluation,
        "scorers": dict(scorers),
        **({} if config.run.primary is None else {"primary": config.run.primary}),
    }
    write_json(run.path / RESULTS, results)
    return results


def called(config: Config, key: str, seed: int) -> Record:
    """How results.json begins: what is evaluated, and what it was made with."""
    return {
        "schema_version": 1,
        "config_hash": key,
        "experiment": config.run.experiment,
        "scheme": config.run.scheme,
        "names": {
            "model": config.model.name,
            "dataset": config.dataset.name,
            "hardware": config.hardware.name,
        },
        "seeds": {"seed": seed, "stage_seed": config.stage_seed},
    }


def scored_samples(config: Config, steps: int) -> int:
    """Responses that were scored to train the policy, and to order the sampled pairs that its DPO
    model, or what its judge has trained, has learnt from."""
    found = scored_responses(config.policy_algorithm, steps)
    read = {*config.judge.artifacts(), *config.scorer.artifacts()}
    by_dpo = "advantage" in read or ("dpo" in read and config.dpo.train)
    by_judge = bool(read & {"discriminator", "bradley_terry"})
    sources = config.dpo.pairs if by_dpo else None, config.reviser.pairs if by_judge else None
    if "hindsight" in read or PairSource.sampled in sources:
        found += 2 * config.dpo.prompts
    return found


def write_figures(run_folder: Path) -> None:
    """Draw the figures and the report of a run."""
    drawing(write_report, run_folder)


def drawing(write: Callable[[Path], object], run_folder: Path) -> None:
    """Call `write` with a run's folder; a failure to draw does not lose a finished run."""
    try:
        write(run_folder)
    except Exception as error:
        say(f"figures: not drawn ({type(error).__name__}: {error}); the numbers are complete")


@contextmanager
def remembering_failure(run: RunFolder, tracker: Tracker | None) -> Iterator[None]:
    """Note in the manifest that the run's numbers went out of range: then it is a result too."""
    try:
        yield
    except (UserError, FloatingPointError) as error:
        numbers = isinstance(error, FloatingPointError | NotFinite)
        if tracker is not None and (numbers or isinstance(error.__cause__, NotFinite)):
            run.write(State.running, failed=str(error))
        raise
