"""Credit for texts and models of one's own, by the judges and schemes that training uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tokencredit.config import Config
from tokencredit.data.token_ids import TokenIds
from tokencredit.judges.judge import Judge
from tokencredit.judges.panel import open_panel
from tokencredit.models.actors import Actors
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rl.load import given_from, open_live
from tokencredit.rl.payer import Payer
from tokencredit.rollout import Judgement, Rollout
from tokencredit.surface.asked import Asked
from tokencredit.surface.credited import Credit
from tokencredit.surface.models import Folders, Models, Source, check_lengths
from tokencredit.surface.texts import Finished, Prompt, Reader, Response

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def credit(  # noqa: PLR0913 - one for each thing that can be chosen
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    judge: str | Judge | None = None,
    scheme: str | RewardScheme = "abc",
    scorer: str | Judge | None = None,
    reward_model: Source | Sequence[Source] | None = None,
    policy: Source | None = None,
    reference: Source | None = None,
    dpo: Source | None = None,
    artifacts: Mapping[str, str | Path] | None = None,
    finished: Finished = None,
    columns: Mapping[str, Sequence[object]] | None = None,
    overrides: Sequence[str] = (),
    config_dirs: Sequence[Path] = (),
    device: str = "cpu",
) -> Credit:
    """The reward of every token of `responses`, as a run would pay it before the KL penalty.

    - `prompts`, `responses`: one a row. A prompt is a text, a conversation (a list of messages), or
      a list of ids; a response a text, or a list of ids. Texts are tokenised as a run's are.
    - `tokenizer`: what they are written in; left out, that of the policy, the reference, or the
      first other model that is given as a folder.
    - `judge`, `scheme`, `scorer`: options of these groups (`tokencredit train --help`), or
      components. Left out: the scheme's own judge, and the reward model for scores.
    - `reward_model`, `policy`, `reference`, `dpo`: the models that judge and scorer read, each a
      model, a folder, or a name on the hub. `reference` is what DPO started from; an ensemble reads
      a list of reward models. One that is missing, or that nothing reads, is an error.
    - `artifacts`: the folders of what stages of a judge of one's own made, by role.
    - `finished`: whether responses ended by themselves. Left out: texts did, and ids that end with
      an end token. A text that did gets its end token, which is paid like any other.
    - `columns`: further columns for a judge that reads some, one value a response.
    - `overrides`: `KEY=VALUE` as on the command line, such as `reward_scheme.beta=0.5`.
    - `config_dirs`: folders with YAML options of one's own.
    - `device`: "cpu" or "cuda".

    Raises `UserError`, which names what is wrong and what to do.
    """
    asked = Asked(
        scheme=scheme, judge=judge, scorer=scorer, overrides=overrides, config_dirs=config_dirs
    )
    config = asked.config(device)
    named = {"policy": policy, "sft": reference, "dpo": dpo}
    models = Models.of(named, reward_model, artifacts or {})
    models.check(config)
    with models.opened(tokenizer) as (folders, writer):
        reader = Reader(TokenIds(writer, config.dataset.special_tokens))
        rollout = reader.rollout(prompts, responses, finished).to(device)
        check_lengths(folders, int(rollout.total_lengths.max()))
        return _credited(config, folders, writer, rollout, columns or {})


def _credited(
    config: Config,
    folders: Folders,
    tokenizer: PreTrainedTokenizerBase,
    rollout: Rollout,
    columns: Mapping[str, Sequence[object]],
) -> Credit:
    """The credit of a rollout, judged as a run does it: chunk by chunk, without gradient."""
    config.model.context = int(rollout.total_lengths.max())
    given = given_from(config, folders.__getitem__, lambda: list(columns), lambda _: columns)
    live = open_live(config, tokenizer, folders)
    with torch.no_grad():
        if isinstance(live, Actors) and config.reads_reference():
            rollout = live.score(rollout)
        judging = open_panel(config.judge, config.scorer, given, live)
        parts = [
            judging(rollout[rows].trimmed()).to("cpu")
            for rows in torch.arange(len(rollout)).split(config.rollout.chunk)
        ]
    judgement, said = Judgement.concatenate(parts), rollout.to("cpu")
    return Credit.of(tokenizer, said, judgement, Payer(config).pay(said, judgement, 0))
