"""The live models of a run, loaded from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import EOS_ID, PAD_ID, make_prompts, tiny_actors, tiny_causal, train_tokenizer
from tokencredit.algorithms.ppo import PPO
from tokencredit.config import Config
from tokencredit.data.dataset import Dataset
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.model import Lora, Model
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.stages.actors import load_actors
from tokencredit.stages.evaluate import summarise
from tokencredit.tracking.tracking import Tracking


def config(**model: object) -> Config:
    return Config(
        model=Model(context=64, **model),  # type: ignore[arg-type]
        dataset=Dataset(),
        judge=AttentionJudge(),
        scorer=RewardModelJudge(),
        reward_scheme=Redistribute(),
        algorithm=PPO(),
        hardware=Hardware(),
        tracking=Tracking(),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with dropout, as pretrained ones have it."""
    tiny_causal("gpt2").save_pretrained(tmp_path)
    settings = (tmp_path / "config.json").read_text()
    assert '"resid_pdrop": 0.0' in settings
    (tmp_path / "config.json").write_text(settings.replace('pdrop": 0.0', 'pdrop": 0.4'))
    train_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("lora", [Lora(), Lora(enabled=True, r=4)], ids=["full", "lora"])
def test_field_B15_no_dropout_in_training_mode(folder: Path, lora: Lora) -> None:
    actors = load_actors(config(lora=lora), folder)
    actors.policy.train()
    rollout = actors.roll_out(make_prompts([3, 5]), ("test", 0))
    with torch.no_grad():
        first, second = actors.policy(rollout), actors.policy(rollout)
    assert torch.equal(first.logp, second.logp)
    assert torch.equal(first.logp[rollout.response_mask], rollout.logp[rollout.response_mask])
    assert torch.equal(rollout.logp, rollout.ref_logp)
    assert (rollout.values == 0).all() and rollout.logp.dtype == torch.float32


def test_ids_come_from_the_tokenizer_and_the_reference_is_frozen(folder: Path) -> None:
    actors = load_actors(config(), folder)
    assert (actors.policy.ids.eos, actors.policy.ids.pad) == (EOS_ID, PAD_ID)
    with actors.reference.model() as model:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert model is not actors.policy.model
    assert all(parameter.requires_grad for parameter in actors.policy.parameters())


def test_adapters_depend_on_the_seed_alone(folder: Path) -> None:
    settings = config(lora=Lora(enabled=True, r=4))

    def first_factor(seed: int) -> torch.Tensor:
        actors = load_actors(replace(settings, seed=seed), folder)
        return next(p for n, p in actors.policy.named_parameters() if "lora_A" in n).detach()

    one = first_factor(1)
    torch.rand(3)
    assert torch.equal(one, first_factor(1)) and not torch.equal(one, first_factor(2))


def test_a_tokenizer_without_an_end(folder: Path) -> None:
    tokenizer = train_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"no end-of-sequence token; set eos_token"):
        load_actors(config(), folder)


def test_a_context_longer_than_the_model(folder: Path) -> None:
    settings = config()
    settings.model.context = 4096
    with pytest.raises(
        UserError, match=r"model\.context = 4096: the model reads at most 96 tokens"
    ):
        load_actors(settings, folder)


def test_what_the_rollout_holds() -> None:
    actors = tiny_actors()
    prompts = make_prompts([2, 7, 4], max_new=[3, 8, 5])
    rollout = actors.roll_out(prompts, ("test", 0))
    assert torch.equal(rollout.prompt_ids, prompts.ids)
    assert rollout.rows.tolist() == prompts.rows.tolist()
    assert (rollout.lengths <= prompts.max_new).all() and (rollout.lengths >= 1).all()
    assert not rollout.logp.requires_grad and (rollout.logp[rollout.response_mask] < 0).all()
    ends = rollout.response_ids.gather(1, rollout.lengths[:, None] - 1)[:, 0] == EOS_ID
    assert torch.equal(ends, rollout.finished)


def test_mean_and_standard_error_by_hand() -> None:
    found = summarise(torch.tensor([1.0, 2.0, 6.0]))
    assert found == {"mean": 3.0, "se": pytest.approx(7**0.5 / 3**0.5), "n": 3}
    assert summarise(torch.tensor([4.0])) == {"mean": 4.0, "se": 0.0, "n": 1}
