"""The promises that every judge must keep, checked on tiny random models that are made for it.

`tokencredit check-judge NAME` runs them on a judge of conf/judge/, on one of a plug-in, or, as
`FILE:CLASS`, on a class in a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import torch
import typer

from tokencredit.composing.chosen import composed
from tokencredit.composing.grammar import class_name
from tokencredit.config import COMPONENTS, Config, load_plugins, register_component
from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge
from tokencredit.judges.promises import Trial, examine_judge
from tokencredit.models.actors import Actors
from tokencredit.models.loading.fit import quiet
from tokencredit.models.loading.scratch import scratch_config, train_tokenizer
from tokencredit.pipeline.worker import hush
from tokencredit.rewards.attribution import Attribution
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rl.load import load_actors
from tokencredit.rollout import Prompts, Rollout, padded
from tokencredit.stages.catalogue import given_of, made_by
from tokencredit.stages.context import Context
from tokencredit.stages.stage import Stage
from tokencredit.streams import integer, stream_key, torch_seed
from tokencredit.training_settings import trainings_of
from tokencredit.user_code import promises
from tokencredit.user_code.imports import import_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTS, RESPONSES = (2, 3, 4, 5, 6), (1, 2, 4, 7, 11)
"""Tokens of the responses that a judge is shown, and of their prompts: rising, so that a judge that
sorts by length, and forgets it, is found in another order alone."""
EVEN: Final = 48
"""Tokens of each prompt, and of each response, in the batch on which passes are counted: so many
that a few words which a judge puts before a prompt count little."""
STEPS: Final = 3
"""Optimizer steps of a judge's own stage."""
SPREAD: Final = 0.3
"""Standard deviation of weights: with the usual 0.02 no token would matter to a random model."""
TINY: Final = (
    *("model=scratch", "model.context=128", "model.architecture.vocab_size=400"),
    *("model.architecture.hidden_size=32", "model.architecture.layers=2"),
    *("model.architecture.heads=4", "model.architecture.mlp_size=48", "tracking=disabled"),
    *("sft.train=false", "reward_model.train=false", "dpo.train=false"),
    *("dpo.prompts=8", "dpo.held_out=4", "oracle.buckets=2048", "oracle.epochs=1"),
)
SCHEMES: Final[Mapping[Evidence, Callable[[], RewardScheme]]] = {
    Evidence.none: Sparse,
    Evidence.nonnegative: Redistribute,
    Evidence.signed: Attribution,
}
"""What reads the evidence, where the command line names no scheme."""
TONES: Final = (("awful", "boring", "clumsy", "ugly"), ("superb", "moving", "clever", "warm"))
PLAIN: Final = ("the", "film", "and", "its", "story", "with", "a", "cast", "that", "was", "it")
RECORDS: Final = 160
Item = TypeVar("Item")


def check(
    name: Annotated[
        str, typer.Argument(help="A judge: attention, implicit, …, a class, or FILE.py:CLASS.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="As of train: judge.layer=0, dataset=pairs, …")
    ] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="Import this first; repeatable.")] = None,
    config_dir: Annotated[
        list[Path] | None, typer.Option(help="More YAML groups, laid out like conf/; repeatable.")
    ] = None,
) -> None:
    """Check that a judge, your own included, keeps the promises that training relies on."""
    hush()
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed, which trainers import, would say that it is
    plugins = list(plugin or [])
    name = imported(name, plugins, config_dir or [])
    with TemporaryDirectory(prefix="tokencredit-") as place:
        trial = trial_of(name, overrides or [], Path(place), plugins, config_dir or [])
        promises.tell(type(trial.judge).__name__, examine_judge(trial))


def imported(name: str, plugins: list[str], folders: Sequence[Path]) -> str:
    """What `judge=` is to be for that argument, whose file is added to the plug-ins."""
    file, _, kind = name.rpartition(":")
    if not file:
        load_plugins(plugins)
        return class_name("judge", name, folders)
    plugins.append(file)
    load_plugins(plugins)
    if kind not in {known.__name__ for known in COMPONENTS["judge"]}:
        found: object = getattr(import_file(Path(file)), kind, None)
        if not isinstance(found, type) or not issubclass(found, Judge):
            raise UserError(f"{name}: the file has no class {kind!r} derived from Judge")
        register_component("judge", found)
    return kind


def trial_of(
    name: str,
    overrides: Sequence[str],
    place: Path,
    plugins: Sequence[str] = (),
    folders: Sequence[Path] = (),
) -> Trial:
    """The judge `judge=NAME` with all that it needs, made in the empty folder `place`."""
    chosen = {text.partition("=")[0].lstrip("+") for text in overrides}
    data = write_data(place, pairs="dataset=pairs" in overrides)
    own = [f"judge={name}", "dataset=file", f"dataset.path={data}", "reward_scheme=sparse", *TINY]
    for role in ("policy", "reward", "dpo"):
        own += [f"model.{role}.source=path", f"model.{role}.path={place / FOLDERS[role]}"]
    wanted = [text for text in own if text.partition("=")[0] not in chosen]
    config = composed([*wanted, *overrides], folders)
    config.plugins, config.store = list(plugins), str(place / "store")
    for training in trainings_of(config.judge):
        training.max_steps = STEPS
    if "reward_scheme" not in chosen:
        config.reward_scheme = SCHEMES[config.judge.gives()]()
    config.judge.check()
    return furnished(config, place)


FOLDERS: Final = {"policy": "sft", "reward": "reward_model", "dpo": "dpo"}
"""The role that judges read each configured model in."""


def furnished(config: Config, place: Path) -> Trial:
    """The judge of that configuration with models, artifacts, and responses."""
    torch.set_num_threads(config.hardware.threads)
    tokenizer = train_tokenizer(map(review, range(RECORDS)), config.model.architecture.vocab_size)
    write = partial(write_model, config, tokenizer)
    for role in FOLDERS.values():
        write(role, place / role)
    actors, context = load_actors(config, place / "sft"), Context(config)
    made: dict[str, Path] = {role: place / role for role in FOLDERS.values()}
    for role, maker in config.judge.artifacts().items():
        if role.startswith("reward_model_"):  # a member of an ensemble
            made[role] = write(role, place / role)
        elif role not in made:
            stage = made_by(maker, context, config.judge)
            build(stage)
            made[role] = stage.folder
    words = list(dict.fromkeys(tokenizer(" ".join(map(review, range(4))))["input_ids"]))
    return Trial(
        judge=config.judge,
        given=replace(given_of(context), folder=made.__getitem__),
        actors=actors,
        rollout=responses(actors, words, PROMPTS, RESPONSES),
        even=responses(actors, words, (EVEN,) * 4, (EVEN,) * 4),
        words=words,
    )


def build(stage: Stage) -> None:
    """Make what a stage leaves, and before it what it is made from."""
    for parent in stage.parents().values():
        build(parent)
    stage.build()


def write_model(
    config: Config, tokenizer: PreTrainedTokenizerBase, role: str, folder: Path
) -> Path:
    """A random model for that role, another for each: a classifier, or a language model."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    settings = scratch_config(config.model)
    settings.vocab_size, settings.initializer_range = len(tokenizer), SPREAD
    settings.num_labels, settings.tie_word_embeddings = 2, False
    for name in ("bos", "eos", "pad"):
        setattr(settings, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    torch.manual_seed(torch_seed(stream_key("check-judge", role)))
    scores = role.startswith("reward_model")
    kind = LlamaForSequenceClassification if scores else LlamaForCausalLM
    with quiet():
        kind(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def responses(
    actors: Actors, words: Sequence[int], prompts: Sequence[int], lengths: Sequence[int]
) -> Rollout:
    """Random responses of these lengths; every other one ends with the end token."""
    said = [chosen(words, length, "answer", row) for row, length in enumerate(lengths)]
    ended = [len(tokens) > 1 and row % 2 == 1 for row, tokens in enumerate(said)]
    for tokens, end in zip(said, ended, strict=True):
        tokens[-1] = actors.policy.ids.eos if end else tokens[-1]
    pad = actors.policy.ids.pad
    ids, mask = padded(said, pad)
    asked = Prompts.padded(
        [chosen(words, length, "prompt", row) for row, length in enumerate(prompts)], pad
    )
    none = torch.zeros(len(said), dtype=torch.bool)
    return actors.score(Rollout.blank(asked, ids, mask, finished=torch.tensor(ended), stopped=none))


def review(number: int) -> str:
    """A text of fifty words, good where `number` is odd; the same for the same number."""
    return " ".join(chosen([*PLAIN, *TONES[number % 2] * 2], 50, number))


def chosen(some: Sequence[Item], count: int, *key: int | str) -> list[Item]:
    """So many of them at random, the same for the same key."""
    places = (
        integer(stream_key("check-judge", *key, place), 0, len(some)) for place in range(count)
    )
    return [some[place] for place in places]


def write_data(place: Path, *, pairs: bool) -> Path:
    """Labelled texts, or pairs of answers, as JSON lines."""
    path = place / ("pairs.jsonl" if pairs else "reviews.jsonl")
    rows: list[dict[str, object]] = [
        {"prompt": f"Text {n}: ", "chosen": review(2 * n + 1), "rejected": review(2 * n)}
        if pairs
        else {"text": review(n), "label": n % 2}
        for n in range(RECORDS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
