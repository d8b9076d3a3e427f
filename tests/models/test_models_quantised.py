"""A policy of four-bit weights under adapters: what is trained, what is not, what is left of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from builders import PAD_ID, VOCABULARY, make_prompts
from learning import FAST, learn, rollout_at, task
from policies import stir, valued_kinds
from quantised import NAMES, QLORA, dequantised, packed_bits, qlora_actors, same, saved
from tokencredit.hardware import Hardware
from tokencredit.models.actors import Actors
from tokencredit.models.adapters.lora import adapted
from tokencredit.models.critic import restore_value
from tokencredit.models.loading.model import Autocast, Dtype
from tokencredit.models.loading.quantization import NF4, ComputeFormat
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.policy import PolicyWithValue
from tokencredit.models.value import Value, ValueKind
from tokencredit.rl.checkpoints import Checkpoints, Progress
from tokencredit.rl.engine import Engine
from tokencredit.rl.export import export_policy
from tokencredit.rl.slices import Kept
from tokencredit.rl.update import Updater
from tokencredit.rl.world import World

every_architecture = pytest.mark.parametrize("architecture", NAMES)
ALGORITHM = task(FAST)
EXACT = NF4(compute_dtype=ComputeFormat.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {name: saved(tmp_path_factory.mktemp(name), name) for name in NAMES}


def updater_of(actors: Actors, micro_batch: int | None = None) -> Updater:
    engine = Engine(actors.policy, ALGORITHM, World(Hardware(micro_batch=micro_batch)))
    return Updater(engine, ALGORITHM, seed=5)


def parameters(policy: PolicyWithValue) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


@every_architecture
@valued_kinds
def test_only_adapters_and_value_head_are_trained(
    folders: Mapping[str, Path], architecture: str, kind: ValueKind
) -> None:
    actors = qlora_actors(folders[architecture], value=Value(kind=kind))
    policy = actors.policy
    bits, before = packed_bits(policy), parameters(policy)
    probe = rollout_at(actors, 99)
    reference, said = actors.reference.logp(probe), policy(probe)
    _, log = learn(actors, updater_of(actors), range(3))
    assert len(bits) >= 3 * 8 * (1 + (kind is ValueKind.separate))
    assert same(packed_bits(policy), bits)
    changed = {name for name, p in parameters(policy).items() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in policy.named_parameters() if p.requires_grad}
    assert changed == {n for n in before if "lora_" in n or n.startswith("value_head")}
    assert torch.equal(actors.reference.logp(probe), reference)
    after = policy(probe)
    assert (after.logp - said.logp).abs().max() > 1e-2
    assert (after.values - said.values).abs().max() > 1e-2
    assert log[0]["value/loss"] != log[-1]["value/loss"]
    assert all(row["optimizer/grad_norm"] > 0 for row in log)


@every_architecture
@pytest.mark.parametrize("autocast", list(Autocast), ids=[kind.value for kind in Autocast])
def test_field_B11_ratio_is_1_before_the_first_step(
    folders: Mapping[str, Path], architecture: str, autocast: Autocast
) -> None:
    """But for rounding of products in batches of other shapes, which depends on the processor.

    In bfloat16 neighbours between 4 and 8 lie 0.03 apart.
    """
    exact = autocast is Autocast.none
    for nf4, most in ((NF4(), 2e-2 if exact else 4e-2), (EXACT, 1e-5 if exact else 4e-2)):
        actors = qlora_actors(folders[architecture], autocast=autocast, nf4=nf4)
        stir(actors.policy)
        _, log = learn(actors, updater_of(actors, micro_batch=1), range(1))
        assert log[0]["ppo/ratio_max_dev"] <= most
        assert log[0]["ppo/clip_fraction"] > 0  # later minibatches have moved


@every_architecture
def test_it_speaks_as_it_reads(folders: Mapping[str, Path], architecture: str) -> None:
    """Greedy decoding, token by token through the cache, is the argmax of one pass over it all."""
    actors = qlora_actors(folders[architecture], nf4=EXACT)
    stir(actors.policy)
    prompts = make_prompts([2, 7, 4, 5], max_new=6, min_new=0)
    said = actors.respond(actors.policy.model, prompts, ("t",), greedy=True)
    for row in range(len(said)):
        length, start = int(said.lengths[row]), int(said.prompt_mask[row].sum())
        ids = torch.cat([said.prompt_ids[row, -start:], said.response_ids[row, :length]])
        with torch.no_grad():
            logits = actors.policy.model(input_ids=ids[None]).logits[0, start - 1 : -1]
        logits[:, PAD_ID] = -torch.inf
        assert torch.equal(logits.argmax(dim=1), said.response_ids[row, :length])


@every_architecture
def test_gradients_are_those_of_the_dequantised_model_also_after_it_spoke(
    folders: Mapping[str, Path], architecture: str
) -> None:
    actors = qlora_actors(folders[architecture], nf4=EXACT)
    policy = actors.policy
    rollout = rollout_at(actors, 0)  # in evaluation mode, which packs bits anew where it may
    stir(policy)
    policy.train()
    policy(rollout).logp.sum().backward()
    plain = dequantised(policy.model)
    twin = PolicyWithValue(adapted(plain, QLORA), policy.ids, policy.sampling)
    twin.load_state_dict(
        {name: p for name, p in policy.state_dict().items() if "lora_" in name}, strict=False
    )
    twin(rollout).logp.sum().backward()
    found = {name: p.grad for name, p in policy.named_parameters() if "lora_" in name}
    assert found
    for name, parameter in twin.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None and found[name] is not None
            assert parameter.grad.abs().max() > 1e-3
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-3)


@every_architecture
def test_activation_checkpointing_changes_no_gradient(
    folders: Mapping[str, Path], architecture: str
) -> None:
    found = []
    for checkpointed in (False, True):
        actors = qlora_actors(folders[architecture])
        policy = actors.policy
        stir(policy)
        if checkpointed:
            policy.checkpoint_activations()
        policy.train()
        policy(rollout_at(actors, 0)).logp.sum().backward()
        found.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert len(found[0]) >= 4
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@valued_kinds
def test_field_B32_a_resumed_run_is_the_run(
    folders: Mapping[str, Path], tmp_path: Path, kind: ValueKind
) -> None:
    value = Value(kind=kind)
    straight = qlora_actors(folders["llama"], value=value)
    whole = updater_of(straight)
    coef, log = learn(straight, whole, range(4))
    first = qlora_actors(folders["llama"], value=value)
    updater = updater_of(first)
    middle, first_log = learn(first, updater, range(2))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(updater.engine, Progress(2, middle, {}))
    newest = checkpoints.newest()
    assert newest is not None
    held = Kept(newest).weights()
    assert all("lora_" in name or name.startswith("value_head") for name in held)
    assert {tensor.dtype for tensor in held.values()} == {torch.float32}
    resumed = qlora_actors(folders["llama"], value=value)
    stir(resumed.policy)  # other adapters, to be replaced
    again = updater_of(resumed)
    again.engine.load(newest)
    last, rest = learn(resumed, again, range(2, 4), Checkpoints.progress(newest).state)
    assert first_log + rest == log and last == coef
    assert same(parameters(resumed.policy), parameters(straight.policy))
    assert same(packed_bits(resumed.policy), packed_bits(straight.policy))


@every_architecture
def test_what_is_exported_says_what_was_trained(
    folders: Mapping[str, Path], architecture: str, tmp_path: Path
) -> None:
    actors = qlora_actors(folders[architecture], nf4=EXACT)
    stir(actors.policy)
    bits = packed_bits(actors.policy)
    export_policy(actors, QLORA, tmp_path)
    ids = torch.randint(2, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    plain, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "policy", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not hasattr(plain.config, "quantization_config")
    assert not any("lora" in name for name, _ in plain.named_parameters())
    base = AutoModelForCausalLM.from_pretrained(folders[architecture])
    with torch.no_grad():
        said = plain(input_ids=ids).logits
        torch.testing.assert_close(
            said, actors.policy.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )
        assert (said - base(input_ids=ids).logits).abs().max() > 1e-1
    assert same(packed_bits(actors.policy), bits)  # and the policy goes on as it was
    assert "lora_A.default" in "".join(dict(actors.policy.named_parameters()))


def test_an_exported_adapter_goes_on_its_base(folders: Mapping[str, Path], tmp_path: Path) -> None:
    actors = qlora_actors(folders["llama"])
    stir(actors.policy)
    export_policy(actors, replace(QLORA, merge=False), tmp_path)
    files = {path.name for path in (tmp_path / "policy").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert "model.safetensors" not in files
    model = load_causal(tmp_path / "policy", Dtype.float32)
    base = load_causal(folders["llama"], Dtype.float32)
    own = dict(actors.policy.model.named_parameters())
    name = "layers.0.self_attn.q_proj"
    factors = [own[f"base_model.model.model.{name}.lora_{x}.default.weight"] for x in "AB"]
    expected = base.get_parameter(f"model.{name}.weight") + 2 * factors[1] @ factors[0]
    torch.testing.assert_close(model.get_parameter(f"model.{name}.weight"), expected)


def test_a_separate_value_function_is_saved_plain_and_read_back(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    value = Value(kind=ValueKind.separate)
    actors = qlora_actors(folders["llama"], value=value, nf4=EXACT)
    stir(actors.policy)
    rollout = rollout_at(actors, 0)
    export_policy(actors, QLORA, tmp_path)
    again = qlora_actors(folders["llama"], value=value, nf4=EXACT).policy
    restore_value(again, tmp_path / "value")
    with torch.no_grad():
        values = again(rollout).values
    torch.testing.assert_close(values, rollout.values, rtol=1e-4, atol=1e-4)
    assert values.abs().max() > 1e-2
