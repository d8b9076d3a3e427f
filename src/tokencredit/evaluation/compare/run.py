"""`judge compare`: load the models, generate, score, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokencredit.canonical import canonical
from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.evaluation.compare.generate import GenerationSettings, generate
from tokencredit.evaluation.compare.oracles import OF_RUN, Oracle, open_oracle
from tokencredit.evaluation.compare.players import (
    Player,
    check_distinct,
    check_pairs,
    of_stage,
    players,
)
from tokencredit.evaluation.compare.prompts import Prompting, from_file, held_out, usable
from tokencredit.evaluation.compare.report import keep, report, write_answers, write_results
from tokencredit.evaluation.compare.scores import compare, score
from tokencredit.evaluation.formats import write_matrix
from tokencredit.store.artifacts import check_writable, make_folder

NO_ORACLE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for."""

    models: Sequence[str]
    names: Sequence[str] | None
    with_stages: Sequence[str]
    """Stages whose models join the runs that were made from them: sft, dpo."""
    count: int | None
    file: Path | None
    oracle: str
    store: Path | None
    longest: int | None
    out: Path
    keep: Path | None
    """Folder for the files to commit."""
    settings: GenerationSettings


def run(request: Request) -> str:
    """Compare the models and return the text to print. What can fail without work fails first."""
    _check_folders(request)
    models = _load(request)
    oracle = _oracle(request, models)
    prompting, short = _prompts(request, models)
    make_folder(request.out)
    answers = generate(models, prompting, request.settings, request.out)
    scored = score(models, prompting, answers, oracle)
    paths = [write_answers(prompting, scored, request.out)]
    if oracle is None:
        return "\n".join(map(str, paths))
    found = compare(scored)
    paths += write_matrix(found.matrix, request.out)
    facts = _facts(request, models, prompting, short) | {
        "oracle": {"name": oracle.name, "identity": oracle.identity, "notes": oracle.notes}
    }
    paths.append(write_results(found, facts, request.out))
    if request.keep is not None:
        paths += keep(prompting, scored, facts, request.keep)
    notes = [f"oracle: {count} {what}" for what, count in oracle.notes.items() if count]
    head = f"{len(prompting.items)} prompts, {prompting.source}; scored by {oracle.name}"
    return "\n\n".join([head, report(found), *notes, "\n".join(map(str, paths))])


def _check_folders(request: Request) -> None:
    check_writable(request.out, "--out")
    if request.keep is not None:
        check_writable(request.keep, "--keep")
        scored = request.oracle != NO_ORACLE
        require(scored, "--oracle", request.oracle, "--keep writes scores: name an oracle")


def _load(request: Request) -> list[Player]:
    """The models; `UserError` unless there are two methods of which some runs meet."""
    models = players(request.models, request.names, request.store)
    runs = [player.run for player in models if player.run is not None]
    for stage in request.with_stages:
        joining = of_stage(stage, runs)
        name = f"--with-{stage}"
        require(bool(joining), name, True, f"no run is named whose {stage} model could be added")
        models += joining
    require(len(models) >= 2, "RUN_OR_MODEL", len(models), "name at least two models")
    check_distinct(models, named=request.names is not None)
    methods = list(dict.fromkeys(model.name for model in models))
    require(
        len(methods) > 1 or request.oracle == NO_ORACLE,
        "RUN_OR_MODEL" if request.names is None else "--names",
        ",".join(methods),
        f"all {len(models)} models are seeds of one method, and there is none to compare it with; "
        "add one (--with-sft), or give each a name of its own with --names",
    )
    for note in check_pairs(models):
        say(note)
    return models


def _oracle(request: Request, models: Sequence[Player]) -> Oracle | None:
    if request.oracle == NO_ORACLE:
        return None
    runs = [player.run for player in models if player.run is not None]
    return open_oracle(request.oracle, runs, request.settings.device)


def _prompts(request: Request, models: Sequence[Player]) -> tuple[Prompting, int]:
    """The prompts that all models have room to answer, and how many others there are."""
    if request.file is not None:
        wanted = from_file(request.file.expanduser(), request.count, request.longest)
    else:
        source = next((player for player in models if player.run is not None), None)
        if source is None or source.run is None:
            raise UserError(
                "--prompts-file: none of the models is a run whose held-out prompts could be used; "
                f"name a file (and an oracle other than {OF_RUN})"
            )
        seed = request.settings.seed
        wanted = held_out(source.run, source.folder, request.count, seed, request.longest)
    prompting, short = usable(wanted, models)
    if short:
        say(f"{short} prompts leave no room for an answer in some model's context: left out")
    return prompting, short


def _facts(
    request: Request, models: Sequence[Player], prompting: Prompting, short: int
) -> dict[str, Any]:
    """How the answers were made, for results.json."""
    sampling = canonical(request.settings)
    assert isinstance(sampling, dict)
    return {
        "prompts": len(prompting.items),
        "source": prompting.source,
        "left_out": short,
        "other_data": _other_data(models) if request.file is None else [],
        "sampling": {k: value for k, value in sampling.items() if k not in ("class", "batch")},
        "max_new_tokens": request.longest,
    }


def _other_data(models: Sequence[Player]) -> list[str]:
    """The paths of runs whose records are split otherwise than the first run's, which are warned
    of: its held-out prompts may not be held out for them.
    """
    runs = [player.run for player in models if player.run is not None]
    prints = [run.manifest.get("fingerprints") for run in runs]
    others = [str(run.path) for run, own in zip(runs, prints, strict=True) if own != prints[0]]
    for path in others:
        say(f"{path}: its data is split otherwise, so it may have been trained on these prompts")
    return others
