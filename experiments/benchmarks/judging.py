"""What signed attributions cost beside attention: judges on one reward model and the same rollout.

    python judging.py --rounds 5

Prints seconds and peak memory of each judge and their quotients by those of the attention judge.
The quotient of seconds is taken within a round, then the median. Nothing else may run on the
machine meanwhile; where something does, processor seconds are what to read.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tokencredit.bench.build import FIRST as FIRST_WORD
from tokencredit.bench.build import SPECIAL, classifier, prompts_of
from tokencredit.bench.report import Spread, provenance
from tokencredit.bench.run import Meter
from tokencredit.bench.workload import Architecture, Size, Work, default_threads, lengths_of
from tokencredit.console import aligned, say
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.judge import OpenJudge
from tokencredit.models.actors import unscored
from tokencredit.models.attribution import Method
from tokencredit.models.decoding.generation import Generated
from tokencredit.models.scorer import Scorer
from tokencredit.rollout import Rollout
from tokencredit.store.files import write_json

FIRST = "attention"
"""What all others are divided by."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one judgement took."""

    seconds: float
    processor_seconds: float
    peak_mb: float | None
    """Resident memory above what stood before."""
    gap: float | None
    """Mean completeness gap, of judges that have one."""


def rollout_of(work: Work) -> Rollout:
    """Random responses to the benchmark's prompts; all judges read the same."""
    prompts = prompts_of(work)
    generator = torch.Generator().manual_seed(work.seed + 1)
    lengths = torch.tensor(work.response_lengths)
    shape = (work.rows, int(lengths.max()))
    ids = torch.randint(FIRST_WORD, work.size.vocabulary, shape, generator=generator)
    ended = torch.ones(work.rows, dtype=torch.bool)
    said = Generated(ids=ids, lengths=lengths, finished=ended, stopped=~ended)
    return unscored(prompts, said)


def judges_of(work: Work, steps: int) -> dict[str, OpenJudge]:
    """The judges, on one reward model with random weights."""
    torch.manual_seed(work.seed)
    scorer = Scorer(classifier(work.size, work.context), SPECIAL.pad)
    attributing = {
        method.value: AttributionJudge(method=method, steps=steps).judging(scorer)
        for method in (Method.gradient_x_input, Method.integrated_gradients)
    }
    return {FIRST: AttentionJudge().judging(scorer), **attributing}


def taken(judge: Callable[[], Any], meter: Meter) -> Taken:
    """One judgement, as runs call it: without gradient."""
    meter.start()
    began, busy = time.perf_counter(), time.process_time()
    with torch.no_grad():
        judgement = judge()
    seconds, processor = time.perf_counter() - began, time.process_time() - busy
    notes = {} if judgement.notes is None else judgement.notes.means()
    return Taken(seconds, processor, meter.above_mb(), notes.get("completeness_gap"))


def measure(work: Work, steps: int, rounds: int) -> dict[str, list[Taken]]:
    """A warm-up, then rounds in which each judge judges the rollout once."""
    torch.set_num_threads(work.threads)
    rollout, judges, meter = rollout_of(work), judges_of(work, steps), Meter()
    found: dict[str, list[Taken]] = {name: [] for name in judges}
    for number in range(rounds + 1):
        for name, judge in judges.items():
            one = taken(lambda judge=judge: judge(rollout), meter)  # type: ignore[misc]
            if number:
                found[name].append(one)
        say(f"{'round' if number else 'warm-up'} {number}/{rounds}")
    return found


def summary(found: dict[str, list[Taken]]) -> dict[str, dict[str, Any]]:
    """Medians, and quotients by the attention judge."""
    first = found[FIRST]
    lowest = _peak(first)
    return {
        name: {
            "seconds": asdict(Spread.of([one.seconds for one in each])),
            "times": asdict(_quotients(each, first, "seconds")),
            "times_processor": asdict(_quotients(each, first, "processor_seconds")),
            "peak_mb": _peak(each),
            "times_memory": peak / lowest if (peak := _peak(each)) and lowest else None,
            "completeness_gap": each[0].gap,
        }
        for name, each in found.items()
    }


def _quotients(each: list[Taken], first: list[Taken], name: str) -> Spread:
    pairs = zip(each, first, strict=True)
    return Spread.of([getattr(one, name) / getattr(other, name) for one, other in pairs])


def _peak(each: list[Taken]) -> float | None:
    peaks = [one.peak_mb for one in each if one.peak_mb is not None]
    return max(peaks, default=None)


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """The summary in lines."""
    rows: list[tuple[str, ...]] = [
        ("judge", "seconds", "times attention", "processor", "peak MB", "times", "gap")
    ]
    for name, one in found.items():
        rows.append(
            (
                name,
                Spread(**one["seconds"]).text(3),
                Spread(**one["times"]).text(1),
                Spread(**one["times_processor"]).text(1),
                _cell(one["peak_mb"], 0),
                _cell(one["times_memory"], 1),
                _cell(one["completeness_gap"], 4),
            )
        )
    return aligned(rows)


def _cell(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    numbers = {"rows": 64, "prompt-tokens": 8, "new-tokens": 32, "layers": 4, "width": 256}
    for name, number in {**numbers, "steps": 32, "rounds": 5}.items():
        parser.add_argument(f"--{name}", default=number, type=int)
    parser.add_argument("--threads", default=default_threads(), type=int)
    parser.add_argument("--architecture", default=Architecture.gpt2, type=Architecture)
    parser.add_argument("--out", type=Path, help="a JSON file for every round")
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error("--rounds must be >= 1")
    size = Size(architecture=asked.architecture, layers=asked.layers, width=asked.width)
    lengths: dict[str, Any] = lengths_of(
        asked.rows, asked.prompt_tokens, asked.new_tokens, 0, vary=False
    )
    work = Work(**lengths, size=size, threads=asked.threads)
    facts = provenance()
    rounds = measure(work, asked.steps, asked.rounds)
    found = summary(rounds)
    if asked.out is not None:
        raw = {name: [asdict(one) for one in each] for name, each in rounds.items()}
        request = {"work": work.plain(), "steps": asked.steps}
        write_json(asked.out, {**facts, **request, "summary": found, "rounds": raw})
    title = (
        f"{size.architecture.value}, {size.layers} layers of width {size.width}, "
        f"{work.threads} thread(s); {work.rows} responses of {asked.new_tokens} tokens to prompts "
        f"of {asked.prompt_tokens}; {asked.steps} steps, medians of {asked.rounds} rounds"
    )
    print("\n".join([title, *table(found)]))


if __name__ == "__main__":
    main()
