"""GPT-J, the ABC paper's model for summaries: it has rotary positions, and no SDPA in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders import (
    PAD_ID,
    make_prompts,
    tiny_actors,
    tiny_classifier,
    tiny_policy,
    train_tokenizer,
)
from learning import learn, start, task
from policies import LENGTHS, alone, rolled, run_config
from small_update import ALGORITHMS, actors_for, rollout_of, small, targets_of, update, updater_of
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.weights import load_causal, load_classifier
from tokencredit.models.scorer import Scorer
from tokencredit.models.value import Value, ValueKind
from tokencredit.rl.load import load_actors


@torch.no_grad()
def test_log_probabilities_are_those_of_its_own_logits() -> None:
    policy, rollout = tiny_policy("gptj"), rolled("gptj")
    said = policy(rollout)
    for row in range(len(rollout)):
        single = alone(rollout, row)
        ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
        start_of = single.prompt_ids.shape[1]
        logits = policy.model(input_ids=ids).logits[0, start_of - 1 : -1].double()
        logits[:, PAD_ID] = -torch.inf
        logits[: int(single.min_new), policy.ids.eos] = -torch.inf
        expected = logits.log_softmax(dim=1).gather(1, single.response_ids[0][:, None])[:, 0]
        found = said.logp[row, : len(expected)].double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # A row alone is the row in a padded batch.
        torch.testing.assert_close(
            policy(single).values[0], said.values[row, : len(expected)], atol=1e-5, rtol=1e-5
        )
    assert said.logp[rollout.response_mask].std() > 0.1


@torch.no_grad()
def test_positions_turn_queries_and_keys() -> None:
    """Left padding moves no position; another order of the same tokens says something else."""
    model = tiny_policy("gptj").model.eval()
    ids = torch.randint(2, 300, (1, 9), generator=torch.Generator().manual_seed(0))
    plain = model(input_ids=ids).logits[0]
    padded = torch.nn.functional.pad(ids, (4, 0), value=PAD_ID)
    mask = torch.nn.functional.pad(torch.ones_like(ids), (4, 0))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits[0, 4:]
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=1e-4)
    without = model(input_ids=padded, attention_mask=mask, position_ids=positions * 0).logits[0, 4:]
    assert (without - plain).abs().max() > 1e-2  # mutation: positions dropped


@torch.no_grad()
def test_it_speaks_as_it_reads() -> None:
    """Decoding through the cache from left-padded prompts is the argmax of one pass over it all."""
    actors = tiny_actors("gptj")
    prompts = make_prompts([2, 7, 4, 5], max_new=8, min_new=0)
    said = actors.respond(actors.policy.model, prompts, ("t",), greedy=True)
    for row in range(len(said)):
        single = alone(said, row)
        ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
        logits = actors.policy.model(input_ids=ids).logits[0, single.prompt_ids.shape[1] - 1 : -1]
        logits[:, PAD_ID] = -torch.inf
        assert torch.equal(logits.argmax(dim=1), single.response_ids[0])


@torch.no_grad()
def test_sampling_does_not_depend_on_the_batch() -> None:
    actors = tiny_actors("gptj")
    prompts = make_prompts(LENGTHS, max_new=[6, 9, 12, 3], min_new=2)
    together = actors.roll_out(prompts, ("t", 0))
    for row in range(len(prompts)):
        single = actors.roll_out(prompts[torch.tensor([row])], ("t", 0))
        length = int(single.lengths)
        assert int(together.lengths[row]) == length
        assert torch.equal(single.response_ids[0, :length], together.response_ids[row, :length])
        torch.testing.assert_close(
            single.logp[0, :length], together.logp[row, :length], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_field_B11_ratio_is_1(micro_batch: int | None) -> None:
    algorithm = small(ALGORITHMS[0], rate=0.0, epochs=2, minibatches=2)
    actors = actors_for(algorithm, "gptj")
    rollout = rollout_of(actors)
    metrics = update(
        updater_of(actors, algorithm, micro_batch), rollout, targets_of(algorithm, rollout)
    )
    assert metrics["ppo/ratio_max_dev"] < 1e-5
    moved = task(Optimizer(learning_rate=3e-3))
    actors, updater = start(moved)
    assert learn(actors, updater, range(1))[1][0]["ppo/clip_fraction"] > 0


@torch.no_grad()
def test_scores_and_attention_of_a_row_alone_are_those_in_company() -> None:
    model, rollout = tiny_classifier("gptj"), rolled("gptj")
    scorer = Scorer(model, PAD_ID)
    scores, evidence = scorer.score_and_attention(rollout, -1)
    for row in range(len(rollout)):
        single = alone(rollout, row)
        score, weights = scorer.score_and_attention(single, -1)
        ids = torch.cat([single.prompt_ids, single.response_ids], dim=1)
        logits = model(input_ids=ids).logits[0]
        assert float(score) == pytest.approx(float(logits[1] - logits[0]), abs=1e-4)
        assert float(scores[row]) == pytest.approx(float(score), abs=1e-4)
        length = weights.shape[1]
        torch.testing.assert_close(evidence[row, :length], weights[0], atol=1e-5, rtol=1e-4)
        eager = model(input_ids=ids, output_attentions=True).attentions[-1].mean(dim=1)[0, -1]
        torch.testing.assert_close(weights[0], eager[-length:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", list(Dtype), ids=[dtype.value for dtype in Dtype])
def test_it_is_loaded_from_a_folder_and_trained(lora: bool, dtype: Dtype, tmp_path: Path) -> None:
    tiny_policy("gptj").model.save_pretrained(tmp_path / "policy")
    train_tokenizer().save_pretrained(tmp_path / "policy")
    tiny_classifier("gptj").save_pretrained(tmp_path / "reward")
    assert load_causal(tmp_path / "policy", dtype).config._attn_implementation == "eager"
    assert load_classifier(tmp_path / "reward", dtype).config.num_labels == 2
    kind = ValueKind.adapter if lora else ValueKind.shared
    settings = run_config(dtype=dtype, lora=Lora(enabled=lora, r=4), value=Value(kind=kind))
    actors = load_actors(settings, tmp_path / "policy")
    rollout = actors.roll_out(make_prompts([3, 5], min_new=2), ("t", 0))
    assert torch.equal(rollout.logp, rollout.ref_logp)
    actors.policy.train()
    output = actors.policy(rollout)
    (output.logp.sum() + output.values.sum()).backward()
    trained = [p for p in actors.policy.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained) and len(trained) >= 8
    assert actors.policy.value_head.weight.dtype is torch.float32
