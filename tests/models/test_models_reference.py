"""The reference: frozen whatever training does, and its divergence from the policy."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tokencredit.models.policy as policy_module
from builders import ARCHITECTURES, EOS_ID, PAD_ID, make_prompts, tiny_causal, train_tokenizer
from policies import LENGTHS, LORA, alone, make_policy, rolled
from tokencredit.errors import UserError
from tokencredit.models.actors import Actors
from tokencredit.models.adapters.lora import adapted
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.models.value import ValueKind
from tokencredit.ops import keep
from tokencredit.rollout import Rollout

IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID)


def train(policy: PolicyWithValue, rollout: Rollout, updates: int) -> None:
    groups = [{"params": group} for group in policy.parameter_groups().values()]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    policy.train()
    for step in range(updates):
        output = policy(rollout)
        loss = keep(
            output.logp * (-1) ** step + (output.values - 1).square(), rollout.response_mask
        )
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()


CASES = {
    "copy": (ValueKind.shared, False),
    "copy, separate value": (ValueKind.separate, False),
    "adapters": (ValueKind.shared, True),
    "adapters, value adapter": (ValueKind.adapter, True),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("kind", "lora"), CASES.values(), ids=CASES.keys())
def test_field_B30_reference_is_the_same_after_50_updates(
    kind: ValueKind, lora: bool, architecture: str
) -> None:
    policy = make_policy(kind, architecture, lora=lora)
    reference = Reference(policy, None if lora else copy.deepcopy(policy.model))
    frozen = Reference(policy, tiny_causal(architecture))
    rollout = rolled(architecture)
    before, said = reference.logp(rollout), policy(rollout).logp
    train(policy, rollout, 50)
    assert torch.equal(reference.logp(rollout), before)
    assert torch.allclose(before, frozen.logp(rollout), atol=1e-6)
    assert (policy(rollout).logp - said).abs().max() > 0.1
    trained = sum(p.requires_grad for p in policy.model.parameters())
    with reference.model():
        pass
    assert sum(p.requires_grad for p in policy.model.parameters()) == trained


@pytest.mark.parametrize(
    ("extra", "what"),
    [({"modules_to_save": ["embed_tokens"]}, "embed_tokens"), ({"bias": "all"}, "biases")],
)
def test_field_B30_training_more_than_adapters_is_refused(extra: dict[str, Any], what: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_causal(), LoraConfig(r=4, task_type="CAUSAL_LM", **extra))
    with pytest.raises(UserError, match=rf"model\.lora: adapter 'default' trains {what} in place"):
        Reference(PolicyWithValue(model, IDS, Sampling()), None)


def test_a_head_that_is_more_than_a_product_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, task_type="CAUSAL_LM", modules_to_save=["lm_head"])
    with pytest.raises(UserError, match="the head above LlamaModel is no plain linear layer"):
        PolicyWithValue(get_peft_model(tiny_causal(), settings), IDS, Sampling())
    model = tiny_causal()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(UserError, match="final_logit_softcapping of LlamaModel changes its logits"):
        PolicyWithValue(model, IDS, Sampling())


def test_field_B30_the_fingerprint_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases trained in place stay when adapters are switched off."""
    from peft import LoraConfig, get_peft_model

    monkeypatch.setattr(policy_module, "check_reference", lambda _: None)
    settings = LoraConfig(r=4, task_type="CAUSAL_LM", bias="all", fan_in_fan_out=True)
    policy = PolicyWithValue(get_peft_model(tiny_causal("gpt2"), settings), IDS, Sampling())
    reference, rollout = Reference(policy, None), rolled("gpt2")
    before = reference.logp(rollout)
    train(policy, rollout, 10)
    assert (reference.logp(rollout) - before).abs().max() > 1e-3


def test_a_policy_without_adapters_needs_a_copy() -> None:
    with pytest.raises(UserError, match=r"model\.lora\.enabled: .* needs a frozen copy"):
        Reference(make_policy(), None)


def test_reference_of_a_policy_with_adapters_is_the_policy_without() -> None:
    policy, rollout = make_policy(lora=True), rolled()
    reference = Reference(policy, None)
    with torch.no_grad():
        own = policy(rollout).logp
        base = PolicyWithValue(tiny_causal(), IDS, policy.sampling)(rollout).logp
        assert torch.allclose(reference.logp(rollout), base, atol=1e-5)
        assert (own - base)[rollout.response_mask].abs().max() > 0.1
        assert torch.equal(policy(rollout).logp, own)  # adapters are on again


def make_actors(*, lora: bool = False, sampling: Sampling | None = None) -> Actors:
    policy = make_policy(sampling=sampling, lora=lora)
    frozen = None if lora else tiny_causal(seed=3)
    return Actors(policy, Reference(policy, frozen), train_tokenizer(), full_kl=True)


def by_hand(actors: Actors, rollout: Rollout, row: int) -> tuple[Tensor, Tensor]:
    """Σ π (log π − log π_ref) and π itself at every token of one row, from the models' logits."""
    single = alone(rollout, row)
    ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
    logs = []
    with actors.reference.model() as model:
        other = model(input_ids=ids).logits
    for logits in (actors.policy.model(input_ids=ids).logits, other):
        used = logits[0, single.prompt_ids.shape[1] - 1 : -1].double()
        used = used / actors.policy.sampling.temperature
        used[: int(single.min_new), EOS_ID] = -torch.inf
        used[:, PAD_ID] = -torch.inf
        if rollout.kept is not None:
            for t in range(len(used)):
                start = int(rollout.kept.starts[row, t])
                kept = rollout.kept.ids[start : start + int(rollout.kept.counts[row, t])].long()
                left_out = torch.ones(used.shape[1], dtype=torch.bool)
                left_out[kept] = False
                used[t, left_out] = -torch.inf
        logs.append(used.log_softmax(dim=-1))
    own, ref = logs
    p = own.exp()
    return torch.where(p > 0, p * (own - ref), 0.0).sum(dim=-1), p


@pytest.mark.parametrize("lora", [False, True], ids=["copy", "lora"])
@pytest.mark.parametrize("sampling", [Sampling(temperature=0.7), Sampling(top_k=12)])
@torch.no_grad()
def test_papers_S6_full_kl_of_a_rollout(lora: bool, sampling: Sampling) -> None:
    actors = make_actors(lora=lora, sampling=sampling)
    prompts = make_prompts(LENGTHS, max_new=[6, 9, 12, 3], min_new=2)
    rollout = actors.roll_out(prompts, ("test", 0))
    assert rollout.full_kl is not None and (rollout.kept is not None) is (sampling.top_k > 0)
    assert (rollout.full_kl[~rollout.response_mask] == 0).all()
    assert (rollout.full_kl[rollout.response_mask] >= -1e-6).all()
    for row, length in enumerate(rollout.lengths.tolist()):
        expected, _ = by_hand(actors, rollout, row)
        assert torch.allclose(rollout.full_kl[row, :length].double(), expected, atol=1e-4)
        assert expected.max() > 1e-2
    # The estimators may be had in one pass or in two.
    actors.full_kl = False
    again = actors.score(replace(rollout, full_kl=None))
    assert again.full_kl is None
    mask = rollout.response_mask
    assert torch.allclose(again.ref_logp[mask], rollout.ref_logp[mask], atol=1e-5)
    assert torch.equal(again.logp, rollout.logp)


@torch.no_grad()
def test_papers_S6_full_kl_is_the_mean_of_k1_and_zero_for_equal_models() -> None:
    """Over all ids a token could have been, weighted by their probability."""
    actors = make_actors()
    rollout = actors.roll_out(make_prompts([3], max_new=1, min_new=0), ("test", 0))
    _, probability = by_hand(actors, rollout, 0)
    size = probability.shape[1]
    every = replace(
        rollout[torch.zeros(size, dtype=torch.long)], response_ids=torch.arange(size)[:, None]
    )
    scored = actors.score(every)
    possible = probability[0] > 0
    k1 = (scored.logp - scored.ref_logp)[possible, 0].double()
    assert rollout.full_kl is not None
    mean = float((probability[0, possible] * k1).sum())
    assert mean == pytest.approx(float(rollout.full_kl[0, 0]), abs=1e-5) and mean > 1e-2
    same = Actors(
        actors.policy,
        Reference(actors.policy, copy.deepcopy(actors.policy.model)),
        actors.tokenizer,
        full_kl=True,
    ).score(rollout)
    assert same.full_kl is not None and (same.full_kl == 0).all()


def test_adapters_of_the_sft_stage_are_the_reference() -> None:
    """The base that adapters are put on is the SFT model; nothing else is left to load."""
    base = tiny_causal()
    model = adapted(copy.deepcopy(base), LORA)
    reference = Reference(PolicyWithValue(model, IDS, Sampling()), None)
    ids = torch.randint(2, 300, (2, 7), generator=torch.Generator().manual_seed(0))
    with reference.model() as without, torch.no_grad():
        assert torch.equal(without(input_ids=ids).logits, base(input_ids=ids).logits)
