"""Judges of single answers that no compared model was trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from tokencredit.canonical import digest, file_sha256
from tokencredit.errors import UserError, require
from tokencredit.evaluation.compare.players import Run, from_hub
from tokencredit.judges.function import FunctionJudge, further
from tokencredit.models.loading.model import Dtype, check_folder, load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.source import folder_identity
from tokencredit.models.loading.weights import context_of, load_classifier
from tokencredit.ops import without_gradient
from tokencredit.stages.oracle import load_oracle
from tokencredit.store.artifacts import MANIFEST
from tokencredit.store.files import check_keys, read_json
from tokencredit.user_code.files import Root

Rate = Callable[[Sequence[str], Sequence[str]], list[float]]
"""From prompts and answers to a score of each answer."""
FUNCTION: Final = re.compile(r"(?!hub:).+:[A-Za-z_]\w*")
OF_RUN: Final = "run"
BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class Oracle:
    """Something that scores answers."""

    name: str
    identity: str
    """Hash of what it is made of."""
    rate: Rate
    notes: dict[str, int] = field(default_factory=dict)
    """What happened while it rated, by name; filled in."""


def open_oracle(spec: str, runs: Sequence[Run], device: str) -> Oracle:
    """The oracle that `spec` names: run (the first run's own), a folder with one, a classifier
    (a folder, or hub:NAME[@REVISION]), or a function (file.py:name, module:name).

    Raises `UserError` where there is none, or where a run was trained on it.
    """
    if spec == OF_RUN:
        if not runs:
            raise UserError("--oracle = 'run': no run is compared; name a classifier or function")
        return _grams(runs[0].artifact("oracle"))
    path = Path(spec).expanduser()
    if path.is_dir() and (path / "oracle.safetensors").is_file():
        return _grams(path)
    if path.is_dir() or spec.startswith("hub:"):
        folder = from_hub(spec) if spec.startswith("hub:") else path
        check_folder(folder, "--oracle")
        _check_unseen(folder, runs)
        return _classifier(spec, folder, device)
    if FUNCTION.fullmatch(spec):
        return _function(spec, runs)
    raise UserError(
        f"--oracle = {spec!r}: is no folder; give run, a folder, hub:NAME, or file.py:function"
    )


def _grams(folder: Path) -> Oracle:
    """The n-gram classifier of a run; it sees answers alone."""
    grams = load_oracle(folder)
    name = folder.resolve().name
    return Oracle("the run's n-gram oracle", name, lambda _, answers: grams.rate(answers).tolist())


def _function(spec: str, runs: Sequence[Run]) -> Oracle:
    """A user's function of prompts and answers, as judge=function takes it."""
    judge = FunctionJudge(function=spec)
    try:
        judge.check()
        content = judge.identity()
    except UserError as error:
        raise UserError(str(error).replace("judge.function", "--oracle")) from error
    columns = [name for name, needed in further(judge.load(), offsets=True).items() if needed]
    require(
        not columns,
        "--oracle",
        spec,
        f"its parameter {', '.join(columns)} takes columns of data or places of tokens, which a "
        "comparison has not; write a function of prompts and responses",
    )
    assert isinstance(content, dict)
    for run in runs:
        for used in _functions(run):
            if all(used[k] == content[k] for k in ("name", "content")):
                raise UserError(f"--oracle = {spec!r}: {run.path} was trained on it; use another")

    def rate(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        try:
            return judge.rate(list(prompts), list(answers))
        except UserError as error:
            raise UserError(str(error).replace("judge.function", "--oracle")) from error

    made_of = content["content"]
    return Oracle(spec, made_of if isinstance(made_of, str) else digest(made_of), rate)


def _functions(run: Run) -> Iterator[Mapping[str, object]]:
    """What the functions that a run was paid by are made of: as its manifest has it, or as their
    files are now. They are not run: only this command line names code.
    """
    place = run.path / MANIFEST
    identity = check_keys(run.manifest.get("identity", {}), place, {})
    recorded = check_keys(identity.get("inputs", {}), place, {})
    for role in ("judge", "scorer"):
        known = recorded.get(role)
        if isinstance(known, Mapping) and "content" in known:
            yield known
        own = getattr(run.config, role)
        named, _, name = str(getattr(own, "function", "")).rpartition(":")
        file = Path(named).expanduser()
        if isinstance(own, FunctionJudge) and named.endswith(".py") and file.is_file():
            with suppress(UserError):  # what it imports has the name of an installed module
                yield {"name": name, "content": Root.of_file(file.resolve()).identity()}


def _classifier(spec: str, folder: Path, device: str) -> Oracle:
    """A sequence classifier that reads prompt and answer: its one output, or of two logits the
    second minus the first.
    """
    tokenizer = load_reader(folder)
    model = load_classifier(Place(folder, key="--oracle"), Dtype.float32).eval().to(device)
    labels = int(model.config.num_labels)
    if labels > 2:
        raise UserError(f"--oracle = {spec!r}: has {labels} labels; one or two can be compared")
    # Texts of one length are read together, so nothing is padded; and with this id no token counts
    # as padding, so the score is read at the last one, whatever the tokenizer calls its pad.
    model.config.pad_token_id = -1
    longest = context_of(model.config)
    notes: dict[str, int] = {}

    @without_gradient
    def rate(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        ids = [tokenizer(p + a)["input_ids"] for p, a in zip(prompts, answers, strict=True)]
        room = longest or max(map(len, ids))
        notes["texts whose beginning was cut"] = sum(len(own) > room for own in ids)
        ids = [own[-room:] for own in ids]
        scores = [0.0] * len(ids)
        for rows in of_one_length([len(own) for own in ids]):
            logits = model(input_ids=torch.tensor([ids[i] for i in rows], device=device)).logits
            values = logits[:, -1] - logits[:, 0] if labels == 2 else logits[:, 0]
            for i, value in zip(rows, values.tolist(), strict=True):
                scores[i] = float(value)
        return scores

    return Oracle(spec, folder_identity(folder), rate, notes)


def load_reader(folder: Path) -> Any:
    """The tokenizer of a classifier, which need not have an end token."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception:  # noqa: BLE001 - it is asked for again
        return load_tokenizer(folder)  # says what is wrong


def of_one_length(lengths: Sequence[int]) -> list[list[int]]:
    """Places of equal numbers, at most `BATCH` together."""
    groups: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        groups.setdefault(length, []).append(place)
    return [own[k : k + BATCH] for own in groups.values() for k in range(0, len(own), BATCH)]


def _check_unseen(folder: Path, runs: Sequence[Run]) -> None:
    """Raise if a run was trained on the model in `folder`, or on a copy of it."""
    weights = {file_sha256(path) for path in folder.glob("*.safetensors")}
    for run in runs:
        for key in run.trained_on():
            for manifest in run.store.glob(f"*/{key}/{MANIFEST}"):
                used = read_json(manifest, sha256=dict)["sha256"]
                if weights & {sha for name, sha in used.items() if name.endswith(".safetensors")}:
                    raise UserError(
                        f"--oracle = {str(folder)!r}: {run.path} was trained on it "
                        f"({manifest.parent.parent.name} {key}), so it proves nothing; use an "
                        "oracle that no compared model has seen"
                    )
