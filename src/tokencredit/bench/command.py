"""`tokencredit bench ppo` and `tokencredit bench centring`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tokencredit.bench import centring as centring_of_heads
from tokencredit.bench import memory as sharing
from tokencredit.bench.configuration import environment_of
from tokencredit.bench.figure import draw
from tokencredit.bench.growth import Point, Sweep, csv_text, points, rows_of
from tokencredit.bench.plan import flops, plan, unpadded
from tokencredit.bench.report import provenance, summary, table
from tokencredit.bench.run import Request
from tokencredit.bench.workload import Architecture, Reward, Size, Work, default_threads, lengths_of
from tokencredit.console import aligned, say, show
from tokencredit.errors import UserError, require
from tokencredit.store.files import write_json, write_text

ITERATIONS, GROWING = 5, 2
"""Iterations that count: of one measurement, and of each point of a sweep."""

bench = typer.Typer(
    help="Time what a run does on this machine.", no_args_is_help=True, add_completion=False
)


Rows = Annotated[int, typer.Option(min=1, help="Prompts of an iteration.")]
PromptTokens = Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")]
NewTokens = Annotated[int, typer.Option(min=1, help="Tokens of each response, exactly.")]
Vary = Annotated[
    bool,
    typer.Option(
        "--vary",
        help="Draw lengths: prompts from an eighth of --prompt-tokens up, responses from a "
        "thirty-second of --new-tokens up.",
    ),
]
Family = Annotated[Architecture, typer.Option(help="Family of the models.")]
Layers = Annotated[int, typer.Option(min=1, help="Layers of each model.")]
Width = Annotated[
    int, typer.Option(min=16, help="Hidden width of each model: a multiple of 64, or 16 or 32.")
]
Vocabulary = Annotated[int, typer.Option(min=8, help="Ids of the vocabulary.")]
Rewarding = Annotated[
    Reward,
    typer.Option(help="sparse: on the last token; abc: spread by the reward model's attention."),
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over a rollout.")]
Minibatch = Annotated[int, typer.Option(min=1, help="Rows of an optimizer step.")]
MicroBatch = Annotated[
    int | None, typer.Option(min=1, help="Rows of one pass. Default: the minibatch.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads. Default: 2, or 1 where there is one core."),
]
Iterations = Annotated[
    int | None, typer.Option(min=1, help="Iterations that count. Default: 5, or 2 with --grow.")
]
WarmUp = Annotated[int, typer.Option(min=0, help="Iterations before those.")]
Seed = Annotated[int, typer.Option(help="Of weights, prompts, lengths, and sampling.")]
Grow = Annotated[
    bool,
    typer.Option(
        "--grow",
        help="Instead: a quarter, a half, one time, and two times --rows, --new-tokens, and "
        "--width, each in turn; a figure and a CSV of how each phase grows. No ceiling.",
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for JSON, CSV, and figure.")]


@bench.callback()
def group() -> None:
    """Time what a run does on this machine."""


@bench.command()
def ppo(  # noqa: PLR0913, PLR0917 - one for each option
    rows: Rows = 64,
    prompt_tokens: PromptTokens = 8,
    new_tokens: NewTokens = 32,
    vary: Vary = False,
    architecture: Family = Architecture.gpt2,
    layers: Layers = 4,
    width: Width = 256,
    vocabulary: Vocabulary = 8192,
    reward: Rewarding = Reward.sparse,
    epochs: Epochs = 4,
    minibatch: Minibatch = 16,
    micro_batch: MicroBatch = None,
    threads: Threads = None,
    iterations: Iterations = None,
    warm_up: WarmUp = 1,
    seed: Seed = 0,
    grow: Grow = False,
    out: Out = Path("bench"),
) -> None:
    """Time a PPO iteration on random weights: generation, scoring, optimisation.

    Prints seconds, tokens a second, padding, peak memory, and what share it reaches of the speed of
    its matrix products alone. Nothing else should run on the machine meanwhile. The defaults take
    about a minute on two cores.
    """
    make_folder(out)
    numbers = {"rows": rows, "new_tokens": new_tokens, "width": width}

    def make(changes: Mapping[str, int]) -> Work:
        now = {**numbers, **changes}
        return Work(
            **lengths_of(now["rows"], prompt_tokens, now["new_tokens"], seed, vary=vary),
            size=Size(
                architecture=architecture, layers=layers, width=now["width"], vocabulary=vocabulary
            ),
            reward=reward,
            epochs=epochs,
            minibatch=minibatch,
            micro_batch=micro_batch,
            threads=threads or default_threads(),
            seed=seed,
        )

    if grow:
        base = {Sweep(name): number for name, number in numbers.items()}
        _grow(points(base, make), iterations or GROWING, warm_up, out)
    else:
        _once(Request(work=make({}), iterations=iterations or ITERATIONS, warm_up=warm_up), out)


Pairs = Annotated[int, typer.Option(help="Pairs of answers, each read in both orders.")]
Tokens = Annotated[int, typer.Option(help="Tokens of a prompt with both answers.")]
Rank = Annotated[int, typer.Option(help="Rank of the head.")]
Chunk = Annotated[int, typer.Option(help="Positions whose probabilities exist together.")]


@bench.command()
def centring(  # noqa: PLR0913, PLR0917 - one for each option
    pairs: Pairs = 4,
    tokens: Tokens = 512,
    layers: Layers = 4,
    width: Width = 1024,
    vocabulary: Vocabulary = 128_256,
    rank: Rank = 16,
    chunk: Chunk = 128,
    threads: Threads = None,
    iterations: Iterations = None,
    warm_up: WarmUp = 1,
    seed: Seed = 0,
    out: Out = Path("bench"),
) -> None:
    """Time advantages that are centred under a frozen policy, on a Llama with random weights.

    Prints seconds, forward and backward, beside those of the language model's loss, the memory that
    the head takes, and whether any tensor holds more than a chunk of positions for all ids.
    """
    size = Size(architecture=Architecture.llama, layers=layers, width=width, vocabulary=vocabulary)
    request = centring_of_heads.Request(
        pairs=pairs,
        tokens=tokens,
        size=size,
        rank=rank,
        chunk=chunk,
        threads=threads or default_threads(),
        iterations=iterations or ITERATIONS,
        warm_up=warm_up,
        seed=seed,
    )
    make_folder(out)
    facts = provenance()
    found = centred(request)
    numbers = {**facts, "request": request.plain(), **found.plain()}
    path = _write(out / "centring.json", numbers)
    show(centring_of_heads.table(request, found))
    show(f"\n{_origin(facts)}\n{path}")


@bench.command()
def memory(out: Out = Path("bench")) -> None:
    """Compare the memory of a process that loads and trains 135 M parameters, alone and as one of
    two under ZeRO-3.

    Prints peaks above idle, medians of three, until the policy is loaded and until steps are taken.
    """
    make_folder(out)
    facts = provenance()
    found = sharing.compare(sharing.WORK)
    path = _write(out / "memory.json", {**facts, **sharing.plain(found)})
    show(found.table())
    show(f"\n{_origin(facts)}\n{path}")


def centred(request: centring_of_heads.Request) -> centring_of_heads.Found:
    """What `tokencredit.bench.centring` says of the request."""
    # A process of a run with as many threads; no length of text is part of its environment.
    work = Work(prompt_lengths=(1,), response_lengths=(1,), threads=request.threads)
    said = asked("tokencredit.bench.centring", request.plain(), environment_of(work))
    return centring_of_heads.Found.of(said)


def make_folder(out: Path) -> None:
    """Make the folder of the results before anything takes time; `UserError` if that fails."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out = {str(out)!r}: cannot be made ({error.strerror}); choose another place"
        ) from error
    require(os.access(out, os.W_OK | os.X_OK), "--out", str(out), "cannot be written")


def _once(request: Request, out: Path) -> None:
    facts = provenance()
    result = measured(request)
    path = _write(out / "ppo.json", {**facts, **result, "summary": summary(result)})
    show(table(result))
    show(f"\n{_origin(facts)}\n{path}")


def _grow(asked: list[Point], iterations: int, warm_up: int, out: Path) -> None:
    facts = provenance()
    known = _measure_all(list(dict.fromkeys(p.work for p in asked)), iterations, warm_up)
    results = [(point, known[point.work]) for point in asked]
    rows = rows_of(results)
    plain = [{"sweep": p.sweep.value, "value": p.value, **result} for p, result in results]
    paths = [_write(out / "growth.json", {**facts, "points": plain})]
    write_text(out / "growth.csv", csv_text(rows))
    origin = _origin(facts)
    base = next(p.work for p in asked if sum(q.work == p.work for q in asked) > 1)
    paths += [out / "growth.csv", *draw(rows, f"{base.text()}\n{origin}", out)]
    cells = [[_cell(value) for value in row.values()] for row in rows]
    show("\n".join(aligned([list(rows[0]), *cells])))
    show(f"\n{origin}")
    show("\n".join(map(str, paths)))


def _measure_all(works: list[Work], iterations: int, warm_up: int) -> dict[Work, dict[str, Any]]:
    """Each in a process of its own, so that memory is its own."""
    costs = {
        work: sum(flops(work.size, passes) for passes in plan(work, unpadded(work)).values())
        for work in works
    }
    found: dict[Work, dict[str, Any]] = {}
    done, busy, began = 0, 0.0, time.perf_counter()
    for work in works:
        found[work] = measured(
            Request(
                work=work, iterations=iterations, warm_up=warm_up, ceiling=False, progress=False
            )
        )
        done += costs[work]
        busy += sum(row["whole"] for row in found[work]["warm_up"] + found[work]["rounds"])
        # Iterations take time by their FLOPs; starting takes each process the same.
        starting = (time.perf_counter() - began - busy) / len(found)
        left = starting * (len(works) - len(found)) + busy / done * (sum(costs.values()) - done)
        new = max(work.response_lengths)
        say(
            f"{len(found)}/{len(works)}: {work.rows} rows, {new} new tokens, width "
            f"{work.size.width}; about {left:.0f} s left"
        )
    return found


def _write(path: Path, value: Mapping[str, Any]) -> Path:
    write_json(path, value)
    return path


def _origin(facts: Mapping[str, Any]) -> str:
    commit = facts["git_commit"]
    return f"{facts['cpu']}, {facts['cores']} cores, torch {facts['environment']['torch']}" + (
        f", commit {commit[:10]}" if commit else ""
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if value < 100 else f"{value:,.0f}"
    return "–" if value is None else str(value)


def measured(request: Request) -> dict[str, Any]:
    """What `tokencredit.bench.run` says of the request."""
    said = asked("tokencredit.bench.run", request.plain(), environment_of(request.work))
    result: dict[str, Any] = json.loads(said)
    return result


def asked(module: str, request: Mapping[str, object], environment: Mapping[str, str]) -> str:
    """What a measuring program says of a request; its progress goes to standard error.

    It is a process of its own because allocator and threads are set before a process starts.
    """
    done = subprocess.run(
        [sys.executable, "-m", module],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        check=False,
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise UserError(
            f"the process that measures was ended by {name}; where memory ran out, lower --rows, "
            "--new-tokens, or --width, or set --micro-batch (of centring: --pairs, --tokens)"
        )
    if done.returncode:
        raise UserError("the process that measures failed; its own words stand above")
    return done.stdout
