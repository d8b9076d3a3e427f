"""`tokencredit judge compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokencredit.commands.options import Names, Plugins, named
from tokencredit.config import load_plugins
from tokencredit.console import show
from tokencredit.evaluation.compare import run
from tokencredit.evaluation.compare.generate import GenerationSettings

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN_OR_MODEL...",
        help="Run folders, folders of runs, model folders, artifacts of the store, or "
        "hub:NAME[@REVISION]. Runs of one scheme with different seeds are one method.",
    ),
]
WithSFT = Annotated[
    bool, typer.Option("--with-sft", help="Add the SFT models that the runs began with, as sft.")
]
WithDPO = Annotated[
    bool, typer.Option("--with-dpo", help="Add the DPO models that paid the runs, as dpo.")
]
Keep = Annotated[
    Path | None,
    typer.Option(
        help="Also write scores.csv and comparison.json there: no texts, to be committed; "
        "`tokencredit table rto/table1a` reads them in experiments/rto/win_rates."
    ),
]
Count = Annotated[
    int | None,
    typer.Option(min=2, help="How many prompts. Default: 400, or all if there are fewer."),
]
File = Annotated[
    Path | None,
    typer.Option(
        help="JSON or JSONL with instruction, turns, messages, or prompt. Default: held-out "
        "prompts of the first run."
    ),
]
OracleName = Annotated[
    str,
    typer.Option(
        help="Who scores: run (the first run's own oracle), a classifier (folder or hub:NAME), "
        "file.py:function, or none (answers only). Never one that a run was trained on."
    ),
]
Store = Annotated[
    Path | None, typer.Option(help="Store of the runs. Default: the one in their config.yaml.")
]
Temperature = Annotated[float, typer.Option(help="Logits are divided by this.")]
TopP = Annotated[float, typer.Option(help="Nucleus of sampling; 1: all ids.")]
Longest = Annotated[
    int | None,
    typer.Option(
        min=1, help="Longest answer. Default: drawn as in the run's training; with a file 256."
    ),
]
Seed = Annotated[int, typer.Option(help="Of the choice of prompts and of sampling.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Prompts at a time; changes no answer.")]
DeviceName = Annotated[str, typer.Option(help="cpu or cuda.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]


def compare(  # noqa: PLR0913, PLR0917 - one for each option
    models: Models,
    names: Names = None,
    with_sft: WithSFT = False,
    with_dpo: WithDPO = False,
    prompts: Count = None,
    prompts_file: File = None,
    oracle: OracleName = "run",
    store: Store = None,
    temperature: Temperature = 1.0,
    top_p: TopP = 0.9,
    max_new_tokens: Longest = None,
    seed: Seed = 0,
    batch: BatchSize = 32,
    device: DeviceName = "cpu",
    out: Out = Path("judged"),
    keep: Keep = None,
    plugin: Plugins = None,
) -> None:
    """Win rates of models over the same held-out prompts, scored by an oracle.

    All models get the same prompts and the same random numbers. Answers are kept by content in
    generations.jsonl: a command that is cut short, or given again with one more model, generates
    what is missing. Writes answers.jsonl, win_matrix.md, win_matrix.csv, win_pairs.csv, and
    results.json.
    """
    load_plugins(plugin or [])
    request = run.Request(
        models=models,
        names=named(names),
        with_stages=[name for name, wanted in (("sft", with_sft), ("dpo", with_dpo)) if wanted],
        count=prompts,
        file=prompts_file,
        oracle=oracle,
        store=store,
        longest=max_new_tokens,
        out=out,
        keep=keep,
        settings=GenerationSettings(
            temperature=temperature, top_p=top_p, seed=seed, batch=batch, device=device
        ),
    )
    show(run.run(request))
