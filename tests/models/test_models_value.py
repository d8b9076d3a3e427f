"""Value functions of three kinds: what trains them, what they start from, what is left of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from builders import ARCHITECTURES, tiny_causal, tiny_classifier, train_tokenizer
from policies import LORA, alone, make_policy, rolled, run_config, stir, valued_kinds
from tokencredit.algorithms.reinforce import Reinforce
from tokencredit.errors import UserError
from tokencredit.judges.discriminator import DiscriminatorJudge
from tokencredit.models.adapters.lora import VALUE, Lora, belongs_to_value, using
from tokencredit.models.critic import restore_value
from tokencredit.models.loading.model import Model
from tokencredit.models.policy import PolicyWithValue
from tokencredit.models.value import Value, ValueHead, ValueInit, ValueKind
from tokencredit.rewards.tlcr import TLCR
from tokencredit.rl.export import export_policy
from tokencredit.rl.load import load_actors
from tokencredit.stages.catalogue import critic_role

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def norms(policy: PolicyWithValue, loss: Tensor) -> dict[str, float]:
    """The gradient norm of each parameter group, and of the value head."""
    policy.zero_grad()
    loss.backward()
    groups = {**policy.parameter_groups(), "head": list(policy.value_head.parameters())}
    return {
        name: sum(float(p.grad.norm()) for p in group if p.grad is not None)
        for name, group in groups.items()
    }


@valued_kinds
@architectures
def test_field_B5_where_the_value_gradient_goes(kind: ValueKind, architecture: str) -> None:
    policy, rollout = make_policy(kind, architecture), rolled(architecture)
    found = norms(policy, policy(rollout).values.square().sum())
    assert found["head"] > 1e-3
    assert (found["policy"] > 1e-3) is (kind is ValueKind.shared)
    assert (found["value"] > found["head"] + 1e-3) is (kind is not ValueKind.shared)
    found = norms(policy, policy(rollout).logp.sum())
    assert found["policy"] > 1e-3 and found["value"] == 0


@valued_kinds
def test_field_B5_groups_hold_every_trainable_parameter_once(kind: ValueKind) -> None:
    policy = make_policy(kind)
    groups = policy.parameter_groups()
    grouped = [parameter for group in groups.values() for parameter in group]
    trainable = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert list(groups) == ["policy", "value"]
    assert {id(p) for p in grouped} == {id(p) for p in trainable}
    assert len(grouped) == len(trainable)
    policy_size = sum(p.numel() for p in groups["policy"])
    value_size = sum(p.numel() for p in groups["value"])
    if kind is ValueKind.adapter:
        assert value_size == policy_size + 33
    if kind is ValueKind.shared:
        assert value_size == 33


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.value.weight", True),
        ("model.base_model.model.transformer.wte.lora_embedding_B.value", True),
        ("model.base_model.model.bert.layer.0.attention.self.value.lora_A.default.weight", False),
        ("model.bert.layer.0.attention.self.value.weight", False),
    ],
)
def test_field_B5_a_layer_called_value_is_the_policys(name: str, own: bool) -> None:
    assert belongs_to_value(name) is own


@valued_kinds
@architectures
@torch.no_grad()
def test_field_B5_values_of_a_row_alone_and_in_company(kind: ValueKind, architecture: str) -> None:
    policy, rollout = make_policy(kind, architecture), rolled(architecture)
    together = policy(rollout)
    assert (together.values[~rollout.response_mask] == 0).all()
    for row, length in enumerate(rollout.lengths.tolist()):
        single = policy(alone(rollout, row))
        assert torch.allclose(single.values[0], together.values[row, :length], atol=1e-5)
    assert together.values.std() > 1e-2


@torch.no_grad()
def test_field_B5_each_adapter_has_its_own_pass() -> None:
    policy, rollout = make_policy(ValueKind.adapter), rolled()
    before = policy(rollout)
    for name, parameter in policy.model.named_parameters():
        if f".{VALUE}." in name:
            parameter.mul_(1.5)
    after = policy(rollout)
    assert torch.equal(after.logp, before.logp)
    assert (after.values - before.values).abs().max() > 1e-2


def test_field_B5_both_adapters_train_although_peft_would_freeze_one() -> None:
    policy, rollout = make_policy(ValueKind.adapter), rolled()
    count = sum(p.requires_grad for p in policy.parameters())
    for adapter in (None, VALUE):
        with using(policy.model, adapter):
            policy.states(policy.model, policy.layout(rollout))
        assert sum(p.requires_grad for p in policy.parameters()) == count
    policy.model.set_adapter(VALUE)  # peft's own way
    assert sum(p.requires_grad for p in policy.parameters()) < count


def test_adapters_are_put_back_after_an_error() -> None:
    policy, rollout = make_policy(ValueKind.adapter), rolled()
    with torch.no_grad():
        before = policy(rollout)
        with pytest.raises(RuntimeError, match="stop"), using(policy.model, None):
            with using(policy.model, VALUE):
                pass
            raise RuntimeError("stop")
        assert torch.equal(policy(rollout).logp, before.logp)


def test_without_values_nothing_is_computed_or_trained() -> None:
    policy, rollout = make_policy(uses_values=False), rolled()
    policy.value_head.register_forward_hook(lambda *_: pytest.fail("the head was used"))
    assert policy(rollout).values is None
    assert list(policy.parameter_groups()) == ["policy"]
    assert not any(p.requires_grad for p in policy.value_head.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value": Value(kind=ValueKind.adapter)}, r"model\.value\.kind = .*needs model\.lora\.en"),
        (
            {"value": {"init": ValueInit.reward_model}},
            r"model\.value\.init = .*use model\.value\.k",
        ),
        (
            {"value": {"head": ValueHead.keep}},
            r"model\.value\.head = .*use model\.value\.init=rewa",
        ),
    ],
)
def test_field_B5_errors_name_the_key(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        value = settings["value"]
        Model(value=Value(**value) if isinstance(value, dict) else value)  # type: ignore[arg-type]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """An SFT model and a reward model."""
    sft, reward = tmp_path / "sft", tmp_path / "reward"
    tiny_causal().save_pretrained(sft)
    tiny_classifier().save_pretrained(reward)
    for folder in (sft, reward):
        train_tokenizer().save_pretrained(folder)
    return sft, reward


SEPARATE = Value(kind=ValueKind.separate)
FROM_REWARD = Value(kind=ValueKind.separate, init=ValueInit.reward_model)
FROM_JUDGE = Value(kind=ValueKind.separate, init=ValueInit.judge)


@pytest.mark.parametrize("lora", [Lora(), LORA], ids=["full", "lora"])
def test_field_B5_a_separate_model_starts_from_sft(folders: tuple[Path, Path], lora: Lora) -> None:
    policy = load_actors(run_config(value=SEPARATE, lora=lora), folders[0]).policy
    rollout = rolled()
    layout = policy.layout(rollout)
    assert policy.value_trunk is not None
    with torch.no_grad():
        own, policys = (policy.states(m, layout) for m in (policy.value_trunk, policy.model))
    assert torch.equal(own, policys)
    ids = [{id(p) for p in part.parameters()} for part in (policy.value_trunk, policy.model)]
    assert not ids[0] & ids[1]
    trained = policy.parameter_groups()["value"]
    assert len(trained) >= 10 and all(p.requires_grad for p in trained)
    assert lora.enabled is (sum(p.numel() for p in trained) < 10_000)


def test_field_B5_a_separate_model_starts_from_the_reward_model(
    folders: tuple[Path, Path],
) -> None:
    """With its head, a value is the reward model's score of the response up to there."""
    reward, rollout = tiny_classifier(), rolled()
    kept = replace(FROM_REWARD, head=ValueHead.keep)
    for value in (FROM_REWARD, kept):
        policy = load_actors(run_config(value=value), *folders).policy
        values = policy(rollout).values
        if value is FROM_REWARD:
            assert (values == 0).all()
            continue
        with torch.no_grad():
            for row, length in enumerate(rollout.lengths.tolist()):
                single = alone(rollout, row)
                ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
                hidden = reward.base_model(input_ids=ids).last_hidden_state
                logits = reward.score(hidden)[0, single.prompt_ids.shape[1] - 1 : -1]
                score = logits[:, 1] - logits[:, 0]
                assert torch.allclose(values[row, :length], score, atol=1e-5)
                assert score.std() > 1e-2


def test_papers_4_9_a_separate_model_starts_from_the_discriminator(
    folders: tuple[Path, Path],
) -> None:
    """Its trunk is the discriminator's, its head is fresh."""
    policy = load_actors(run_config(value=FROM_JUDGE), *folders).policy
    rollout = rolled()
    layout = policy.layout(rollout)
    assert policy.value_trunk is not None
    with torch.no_grad():
        assert (policy(rollout).values == 0).all()
        own = policy.states(policy.value_trunk, layout)
        discriminators = policy.states(tiny_classifier().base_model, layout)
        policys = policy.states(policy.model, layout)
    assert torch.allclose(own, discriminators, atol=1e-6)
    assert not torch.allclose(own, policys, atol=1e-2)
    with pytest.raises(UserError, match=r"model\.value\.init = 'judge': this run has no judge"):
        load_actors(run_config(value=FROM_JUDGE), folders[0])


def test_papers_4_9_only_a_judge_with_a_model_of_its_own_gives_a_critic() -> None:
    config = run_config(value=FROM_JUDGE)
    with pytest.raises(UserError, match="AttentionJudge trains no model of its own"):
        critic_role(config)
    judged = replace(config, judge=DiscriminatorJudge(), reward_scheme=TLCR())
    assert critic_role(judged) == "discriminator"
    assert critic_role(replace(judged, algorithm=Reinforce())) is None
    assert critic_role(run_config(value=FROM_REWARD)) == "reward_model"
    assert critic_role(run_config(value=SEPARATE)) is None


def test_field_B5_one_output_is_the_score_and_three_are_none(tmp_path: Path) -> None:
    weights = []
    for labels in (1, 3):
        tiny_causal().save_pretrained(tmp_path / "sft")
        model = tiny_classifier(num_labels=labels)
        model.save_pretrained(tmp_path / "reward")
        for name in ("sft", "reward"):
            train_tokenizer().save_pretrained(tmp_path / name)
        config = run_config(value=replace(FROM_REWARD, head=ValueHead.keep))
        if labels == 1:
            policy = load_actors(config, tmp_path / "sft", tmp_path / "reward").policy
            weights = [policy.value_head.weight, model.score.weight]
            assert torch.equal(*weights)
            continue
        with pytest.raises(UserError, match=r"model\.value\.head = 'keep': .* 3 outputs"):
            load_actors(config, tmp_path / "sft", tmp_path / "reward")


def test_field_B5_a_run_without_reward_model_or_with_another_vocabulary(
    folders: tuple[Path, Path],
) -> None:
    with pytest.raises(UserError, match=r"model\.value\.init = 'reward_model': this run has no"):
        load_actors(run_config(value=FROM_REWARD), folders[0])
    train_tokenizer(eos_token="<end>").save_pretrained(folders[1])
    with pytest.raises(UserError, match=r"model\.value\.init .*vocabulary differs"):
        load_actors(run_config(value=FROM_REWARD), *folders)


EXPORTS = {
    "shared": (Value(), Lora()),
    "separate": (SEPARATE, Lora()),
    "reward model": (FROM_REWARD, Lora()),
    "shared, lora": (Value(), LORA),
    "separate, lora": (SEPARATE, LORA),
    "adapter": (Value(kind=ValueKind.adapter), LORA),
    "adapter, unmerged": (Value(kind=ValueKind.adapter), replace(LORA, merge=False)),
}


@pytest.mark.parametrize(("value", "lora"), EXPORTS.values(), ids=EXPORTS.keys())
def test_field_B36_export_and_reload(
    folders: tuple[Path, Path], tmp_path: Path, value: Value, lora: Lora
) -> None:
    actors = load_actors(run_config(value=value, lora=lora), *folders)
    rollout = rolled()
    stir(actors.policy)
    export_policy(actors, lora, tmp_path)
    export_policy(actors, lora, tmp_path)  # takes the place of the first
    assert not list(tmp_path.glob("*.partial"))
    with torch.no_grad():
        expected = actors.policy(rollout)
    own = actors.policy
    if lora.merge:
        model, found = AutoModelForCausalLM.from_pretrained(
            tmp_path / "policy", output_loading_info=True
        )
        assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        own = PolicyWithValue(model, actors.policy.ids, actors.policy.sampling)
        assert torch.allclose(own(rollout).logp, expected.logp, atol=1e-4)
    else:
        names = {path.name for path in (tmp_path / "policy").iterdir()}
        assert "adapter_model.safetensors" in names and VALUE not in names
    again = load_actors(run_config(value=value, lora=lora), *folders).policy
    if value.kind is ValueKind.shared:  # such values belong to the trained policy's states
        again = own
    with torch.no_grad():
        assert not torch.allclose(again(rollout).values, expected.values, atol=1e-3)
        restore_value(again, tmp_path / "value")
        assert torch.allclose(again(rollout).values, expected.values, atol=1e-5)
    if value.kind is ValueKind.separate:
        _, found = AutoModel.from_pretrained(tmp_path / "value", output_loading_info=True)
        assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_field_B36_another_kind_of_value_is_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    actors = load_actors(run_config(), folders[0])
    export_policy(actors, Lora(), tmp_path, "policy_best")
    other = load_actors(run_config(value=SEPARATE), folders[0]).policy
    with pytest.raises(UserError, match=r"model\.value\.kind = 'separate': .* kind=shared"):
        restore_value(other, tmp_path / "value_best")


def test_an_algorithm_without_values_leaves_none(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    config = replace(run_config(value=FROM_REWARD), algorithm=Reinforce())
    actors = load_actors(config, folders[0])  # and asks for no reward model
    assert not actors.policy.uses_values and actors.policy.value_trunk is None
    export_policy(actors, Lora(), tmp_path)
    assert (tmp_path / "policy").is_dir() and not (tmp_path / "value").exists()
