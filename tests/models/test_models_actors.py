"""The live models of a run, loaded from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import EOS_ID, PAD_ID, make_prompts, tiny_actors, tiny_causal, train_tokenizer
from policies import LORA, make_policy, run_config
from tokencredit.algorithms.kl import Estimator, KLPenalty
from tokencredit.algorithms.ppo import PPO
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Autocast
from tokencredit.models.value import Value, ValueKind
from tokencredit.rl.evaluate import summarise
from tokencredit.rl.load import load_actors
from tokencredit.rollout import Rollout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with dropout, as pretrained ones have it."""
    tiny_causal("gpt2").save_pretrained(tmp_path)
    settings = (tmp_path / "config.json").read_text()
    assert '"resid_pdrop": 0.0' in settings
    (tmp_path / "config.json").write_text(settings.replace('pdrop": 0.0', 'pdrop": 0.4'))
    train_tokenizer().save_pretrained(tmp_path)
    return tmp_path


DROPPING = {
    "full": (Lora(), ValueKind.shared),
    "lora": (LORA, ValueKind.shared),
    "separate value": (Lora(), ValueKind.separate),
    "value adapter": (LORA, ValueKind.adapter),
}


@pytest.mark.parametrize(("lora", "kind"), DROPPING.values(), ids=DROPPING.keys())
def test_field_B15_no_dropout_in_training_mode(folder: Path, lora: Lora, kind: ValueKind) -> None:
    actors = load_actors(run_config(lora=lora, value=Value(kind=kind)), folder)
    dropouts = [m.p for m in actors.policy.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(dropouts) >= 7 and set(dropouts) == {0.0}
    actors.policy.train()
    rollout = actors.roll_out(make_prompts([3, 5]), ("test", 0))
    with torch.no_grad():
        first, second = actors.policy(rollout), actors.policy(rollout)
    assert torch.equal(first.logp, second.logp)
    assert torch.equal(first.logp[rollout.response_mask], rollout.logp[rollout.response_mask])
    assert torch.equal(rollout.logp, rollout.ref_logp)
    assert (rollout.values == 0).all() and rollout.logp.dtype == torch.float32


def test_ids_come_from_the_tokenizer_and_the_reference_is_frozen(folder: Path) -> None:
    actors = load_actors(run_config(), folder)
    assert (actors.policy.ids.eos, actors.policy.ids.pad) == (EOS_ID, PAD_ID)
    with actors.reference.model() as model:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert model is not actors.policy.model
    assert all(parameter.requires_grad for parameter in actors.policy.parameters())


def test_adapters_depend_on_the_seed_alone(folder: Path) -> None:
    settings = run_config(lora=Lora(enabled=True, r=4))

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
        load_actors(run_config(), folder)


def test_a_context_longer_than_the_model(folder: Path) -> None:
    settings = run_config()
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


PROMPTS = ([2, 11, 4, 5, 3, 12, 2], [6, 3, 12, 3, 9, 12, 2])


def rolled_in(rows: int, kind: ValueKind = ValueKind.shared) -> tuple[Rollout, list[int]]:
    """A rollout scored `rows` at a time, and the widths of the passes."""
    actors = tiny_actors(sampling=Sampling(score_rows=rows))
    actors.policy = make_policy(kind, sampling=Sampling(score_rows=rows))
    actors.reference.policy = actors.policy
    said = actors.respond(
        actors.policy.model, make_prompts(PROMPTS[0], max_new=PROMPTS[1], min_new=2), ("test", 0)
    )
    widths: list[int] = []
    embed = actors.policy.model.get_input_embeddings()
    embed.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    return actors.score(said), widths


@pytest.mark.parametrize("kind", list(ValueKind), ids=[kind.value for kind in ValueKind])
@torch.no_grad()
def test_scoring_in_buckets_is_scoring_each_row(kind: ValueKind) -> None:
    """Rows are read shortest first, as wide as they need, and each gets its own numbers back."""
    single, widths = rolled_in(1, kind)
    lengths = (single.prompt_mask.sum(dim=1) + single.lengths).tolist()
    passes = 2 if kind is ValueKind.adapter else 1
    assert widths[::passes] == sorted(length - 1 for length in lengths)
    for rows in (3, 64):
        together, widths = rolled_in(rows, kind)
        buckets = [sorted(lengths)[i : i + rows][-1] - 1 for i in range(0, 7, rows)]
        assert widths[::passes] == buckets
        for name in ("logp", "values", "ref_logp"):
            found = getattr(together, name)
            assert torch.allclose(found, getattr(single, name), atol=1e-5)
            assert (found[~single.response_mask] == 0).all()
            assert found[single.response_mask].std() > 1e-2


@torch.no_grad()
def test_scores_in_the_wrong_order_would_be_seen() -> None:
    actors = tiny_actors()
    rollout = actors.roll_out(make_prompts(PROMPTS[0], max_new=PROMPTS[1]), ("test", 0))
    mixed = rollout[torch.arange(6, -1, -1)]
    again = actors.score(mixed)
    assert torch.allclose(again.logp, mixed.logp, atol=1e-5)
    assert not torch.allclose(again.logp, rollout.logp, atol=1e-2)


@torch.no_grad()
def test_greedy_responses_need_no_stream() -> None:
    actors = tiny_actors()
    prompts = make_prompts([3, 5], max_new=6)
    first, second = (
        actors.respond(actors.policy.model, prompts, ("test", n), greedy=True) for n in (0, 1)
    )
    assert torch.equal(first.response_ids, second.response_ids)
    sampled = [actors.respond(actors.policy.model, prompts, ("test", n)) for n in (0, 1)]
    assert not torch.equal(sampled[0].response_ids, sampled[1].response_ids)
    every = torch.arange(6)[None] < first.lengths[:, None]
    assert torch.equal(first.response_mask, every[:, : first.response_mask.shape[1]])


SETTINGS = {
    "checkpointing": (Hardware(gradient_checkpointing=True), Autocast.none),
    "autocast": (Hardware(logits_memory_mb=1), Autocast.bfloat16),
}


@pytest.mark.parametrize(("hardware", "autocast"), SETTINGS.values(), ids=SETTINGS.keys())
def test_hardware_and_autocast_reach_the_policy(
    folder: Path, hardware: Hardware, autocast: Autocast
) -> None:
    settings = replace(run_config(autocast=autocast), hardware=hardware)
    policy = load_actors(settings, folder).policy
    assert policy.computation.logits_memory == hardware.logits_memory_mb << 20
    narrow = torch.bfloat16 if autocast is Autocast.bfloat16 else None
    assert policy.computation.narrow_format is narrow
    flags = {m.gradient_checkpointing for m in policy.modules() if hasattr(m, "attn")}
    assert flags == {hardware.gradient_checkpointing}


def test_activations_are_fused_in_every_model(folder: Path) -> None:
    for settings in (
        run_config(value=Value(kind=ValueKind.separate)),
        run_config(value=Value(kind=ValueKind.adapter), lora=LORA),
    ):
        actors = load_actors(settings, folder)
        parts = [actors.policy]
        if actors.reference.frozen is not None:
            parts.append(actors.reference.frozen)
        names = [type(m).__name__ for part in parts for m in part.modules()]
        fused = 2 * (1 if settings.model.lora.enabled else 3)
        assert names.count("GELU") == fused and "NewGELUActivation" not in names


@pytest.mark.parametrize("estimator", [Estimator.k1, Estimator.full])
def test_exact_kl_is_computed_where_the_estimator_reads_it(
    folder: Path, estimator: Estimator
) -> None:
    algorithm = PPO(kl=KLPenalty(estimator=estimator))
    actors = load_actors(run_config(algorithm=algorithm), folder)
    rollout = actors.roll_out(make_prompts([3, 5]), ("test", 0))
    assert (rollout.full_kl is not None) is (estimator is Estimator.full)


def test_mean_and_standard_error_by_hand() -> None:
    found = summarise(torch.tensor([1.0, 2.0, 6.0]))
    assert found == {"mean": 3.0, "se": pytest.approx(7**0.5 / 3**0.5), "n": 3}
    assert summarise(torch.tensor([4.0])) == {"mean": 4.0, "se": 0.0, "n": 1}
