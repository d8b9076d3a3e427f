"""Our iterations at the settings of the comparison, each beside its own matrix products.

    python ceilings.py --settings a,b,c,d --iterations 5

Writes ceilings.json (every round) and ceilings.md (the tables) to --out. Nothing else may run on
the machine meanwhile.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from tokencredit.bench.command import measured
from tokencredit.bench.report import provenance, summary, table
from tokencredit.bench.run import Request
from tokencredit.bench.workload import Reward, Size, Work
from tokencredit.console import say
from tokencredit.store.files import write_json, write_text

HERE = Path(__file__).parent
AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Products as on a processor without AVX-512; everything else stays as it is."""
sys.path.insert(0, str(HERE / "peers"))

import workload  # noqa: E402 - beside this file, not in the package


def work_of(setting: workload.Setting, reward: Reward) -> Work:
    """The setting in the words of the benchmark."""
    return Work(
        prompt_lengths=setting.prompt_lengths,
        response_lengths=setting.response_lengths,
        size=Size(layers=workload.LAYERS, width=workload.WIDTH, vocabulary=workload.VOCABULARY),
        reward=reward,
        epochs=workload.EPOCHS,
        minibatch=workload.MINIBATCH,
        threads=workload.THREADS,
        seed=workload.MODEL_SEED,
    )


def page(facts: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    """The tables of all settings."""
    lines = [
        "# PPO iterations against their matrix products",
        "",
        (
            f"{facts['cpu']}, {facts['cores']} cores, torch {facts['environment']['torch']}, "
            f"{facts['date'][:10]}{', products with AVX2' if facts['avx2'] else ''}."
        ),
    ]
    for name, result in results.items():
        lines += ["", f"## ({name}) {workload.SETTINGS[name].title}", "", "```"]
        lines += [*table(result).strip().splitlines(), "```"]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure setting after setting; after each the results so far are written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--settings", default="a,b,c,d", help="of peers/workload.py")
    parser.add_argument("--iterations", default=5, type=int, help="rounds after the warm-up")
    parser.add_argument("--reward", default=Reward.sparse, type=Reward, choices=list(Reward))
    parser.add_argument("--avx2", action="store_true", help="matrix products with AVX2 alone")
    parser.add_argument("--out", default=HERE / "results", type=Path, help="where results go")
    asked = parser.parse_args()
    names = [name.strip() for name in asked.settings.split(",")]
    unknown = [name for name in names if name not in workload.SETTINGS]
    if unknown or asked.iterations < 1:
        parser.error(f"unknown settings {unknown}" if unknown else "--iterations must be >= 1")
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.avx2:
        os.environ.update(AVX2)
    facts = {**provenance(), "avx2": asked.avx2}
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        work = work_of(workload.SETTINGS[name], asked.reward)
        say(f"({name}) {workload.SETTINGS[name].title}")
        results[name] = measured(Request(work=work, iterations=asked.iterations))
        raw = {each: {**result, "summary": summary(result)} for each, result in results.items()}
        write_json(asked.out / "ceilings.json", {**facts, "settings": raw})
        write_text(asked.out / "ceilings.md", page(facts, results))
    print(page(facts, results))


if __name__ == "__main__":
    main()
