"""Changes of a configuration that a stage reads, each of one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.sources import Source
from tokencredit.hardware import Hardware
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.bradley_terry import BradleyTerryJudge
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.judges.function import FunctionJudge
from tokencredit.judges.hindsight import HindsightJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import (
    Dtype,
    Model,
    ModelSource,
    Pretrained,
)
from tokencredit.models.loading.quantization import NF4, Quantization
from tokencredit.reviser_settings import Reviser
from tokencredit.rewards.implicit import RTO
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.tlcr import TLCR
from tokencredit.tracking.tracking import Tracking

Change = Callable[[Config], Config]


def config(place: Path) -> Config:
    """A run on `base.jsonl` and `model` in that folder."""
    policy = Pretrained(source=ModelSource.path, path=str(place / "model"), name=None)
    return Config(
        model=Model(policy=policy, context=64),
        dataset=Dataset(source=Source.path, path=str(place / "base.jsonl")),
        judge=AttentionJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Redistribute(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
    )


def at(config: Config, name: str) -> str:
    """A file or folder beside the data."""
    return str(Path(config.dataset.path or "").parent / name)


def model(**numbers: Any) -> Change:
    return lambda c: replace(c, model=replace(c.model, **numbers))


def data(**numbers: Any) -> Change:
    return lambda c: replace(c, dataset=replace(c.dataset, **numbers))


def record_of(split: str) -> Change:
    """One record of that split says something else."""
    return lambda c: replace(c, dataset=replace(c.dataset, path=at(c, f"{split}.jsonl")))


def from_path(role: str, name: str) -> Change:
    """The model of that role is another one beside the data."""

    def change(c: Config) -> Config:
        source = Pretrained(source=ModelSource.path, path=at(c, name), name=None)
        role_source: dict[str, Any] = {role: source}
        return replace(c, model=replace(c.model, **role_source))

    return change


def judged_by_function(c: Config) -> Config:
    return replace(c, scorer=FunctionJudge(function=f"{at(c, 'judge.py')}:f"))


def same(c: Config) -> Config:
    return c


PAIRS = data(format="preference")
DTYPE, LORA = model(dtype=Dtype.bfloat16), model(lora=Lora(enabled=True))
CONTEXT, FORMAT = model(context=60), data(format="prompt_completion")
NF4_ON = model(quantization=Quantization.nf4, nf4=NF4(), lora=Lora(enabled=True))
STAGE_SEED: Change = lambda c: replace(c, stage_seed=1)  # noqa: E731
ROLLOUT: Change = lambda c: replace(c, rollout=Sampling(temperature=0.7))  # noqa: E731
PROMPT = data(prompt=PromptSpec(max_tokens=7))


def revised(**settings: Any) -> Change:
    """Another reviser."""
    return lambda c: replace(c, reviser=Reviser(**settings))


def discriminated(**settings: Any) -> Change:
    """The run's judge is a discriminator that learns from revisions of pairs."""
    judge = DiscriminatorJudge(**settings)
    return lambda c: replace(PAIRS(c), judge=judge, reward_scheme=TLCR())


def preferring(**settings: Any) -> Change:
    """The run's judge is a reward model of its own pairs."""
    judge = BradleyTerryJudge(**settings)
    return lambda c: replace(PAIRS(c), judge=judge, reward_scheme=Sparse())


def played(**settings: Any) -> Change:
    """The run's judge is an advantage model."""
    judge = AdvantageJudge(**settings)
    return lambda c: replace(PAIRS(c), judge=judge, reward_scheme=RTO())


def looking_back(**settings: Any) -> Change:
    """The run's judge is a hindsight model."""
    judge = HindsightJudge(**settings)
    return lambda c: replace(c, judge=judge, reward_scheme=Sparse())


def own_words(c: Config) -> Path:
    """A short list of words beside the data."""
    path = Path(at(c, "words.tsv"))
    path.write_text("adjective\tbad\tgood\n", encoding="utf-8")
    return path
