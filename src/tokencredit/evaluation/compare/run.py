"""`judge compare`, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.evaluation.compare.generate import Speaking
from tokencredit.evaluation.compare.meetings import check_distinct, check_pairs
from tokencredit.evaluation.compare.oracles import OF_RUN, Oracle, open_oracle
from tokencredit.evaluation.compare.players import Player, of_stage, players
from tokencredit.evaluation.compare.prompts import Prompting, from_file, held_out, usable
from tokencredit.evaluation.compare.report import (
    keep,
    report,
    write_answers,
    write_matrix,
    write_results,
)
from tokencredit.evaluation.compare.scores import matrix_of, rated, settings_of, speak, warn_of_data
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
    speaking: Speaking


def run(request: Request) -> str:
    """Do it all; what is to be printed. What can fail without work fails first."""
    check_writable(request.out, "--out")
    if request.keep is not None:
        check_writable(request.keep, "--keep")
        scored = request.oracle != NO_ORACLE
        require(scored, "--oracle", request.oracle, "--keep writes scores: name an oracle")
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
    oracle = _oracle(request, models)
    prompting, short = usable(_prompting(request, models), models)
    if short:
        say(f"{short} prompts leave no room for an answer in some model's context: left out")
    make_folder(request.out)
    answers = speak(models, prompting, request.speaking, request.out)
    spoken = rated(models, prompting, answers, oracle)
    paths = [write_answers(prompting, spoken, request.out)]
    if oracle is None:
        return "\n".join(map(str, paths))
    matrix = matrix_of(spoken)
    paths += write_matrix(matrix, request.out)
    facts = {
        "prompts": len(prompting.items),
        "source": prompting.source,
        "left_out": short,
        "other_data": warn_of_data(models) if request.file is None else [],
        "sampling": settings_of(request.speaking),
        "max_new_tokens": request.longest,
        "oracle": {"name": oracle.name, "identity": oracle.identity, "notes": oracle.notes},
    }
    paths.append(write_results(spoken, matrix, facts, request.out))
    if request.keep is not None:
        paths += keep(prompting, spoken, facts, request.keep)
    notes = [f"oracle: {count} {what}" for what, count in oracle.notes.items() if count]
    head = f"{len(prompting.items)} prompts, {prompting.source}; scored by {oracle.name}"
    return "\n\n".join([head, report(spoken, matrix), *notes, "\n".join(map(str, paths))])


def _oracle(request: Request, models: Sequence[Player]) -> Oracle | None:
    if request.oracle == NO_ORACLE:
        return None
    runs = [player.run for player in models if player.run is not None]
    return open_oracle(request.oracle, runs, request.speaking.device)


def _prompting(request: Request, models: Sequence[Player]) -> Prompting:
    if request.file is not None:
        return from_file(request.file.expanduser(), request.count, request.longest)
    source = next((player for player in models if player.run is not None), None)
    if source is None or source.run is None:
        raise UserError(
            "--prompts-file: none of the models is a run whose held-out prompts could be used; "
            f"name a file (and an oracle other than {OF_RUN})"
        )
    return held_out(
        source.run, source.folder, request.count, request.speaking.seed, request.longest
    )
