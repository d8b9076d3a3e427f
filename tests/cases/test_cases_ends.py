"""What ends a response, and ids that nobody can say: in sampling and in log-probabilities."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import EOS_ID, PAD_ID, VOCABULARY, make_prompts, tiny_actors, tiny_causal
from case_data import review, write_jsonl
from case_models import CHATML, make_causal, make_tokenizer, save
from case_runs import key_of, run_on
from case_templates import ENDS, MADE
from tokencredit.commands.generate import continuations
from tokencredit.data.token_ids import SpecialTokens
from tokencredit.evaluation.compare.generate import Generations, GenerationSettings
from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Item, Prompting
from tokencredit.models.actors import Actors, unscored
from tokencredit.models.decoding.generation import generate
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.decoding.text_generator import TextGenerator
from tokencredit.models.loading.model import Dtype, load_tokenizer
from tokencredit.models.loading.scratch import END, PAD
from tokencredit.models.loading.shipped import FOLDER
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.logprob import token_logp
from tokencredit.models.policy import PolicyWithValue, Reference
from tokencredit.models.tokens.ends import SpecialIds, SpokenModel, special_ids
from tokencredit.rl.export import export_policy
from tokencredit.rl.load import load_actors
from tokencredit.rollout import Rollout
from tokencredit.stages.context import Context
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage

OTHER, SPARE = 7, (20, 21, 299)
IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID, others=(OTHER,), spare=SPARE)
GENERATION = "generation_config.json"


def named_ends(folder: Path, ids: Any) -> None:
    """Let the folder's generation_config name these end tokens."""
    path = folder / GENERATION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": ids}))


def model_at(folder: Path, *, template: str | None = CHATML, **more: Any) -> Path:
    tokenizer = make_tokenizer(template=template)
    return save(folder, make_causal(tokenizer, **more), tokenizer)


def told(folder: Path) -> SpecialIds:
    """The ends of a model by its files, which must be those of the loaded model."""
    tokenizer = load_tokenizer(folder)
    found = special_ids(tokenizer, SpokenModel.at(folder))
    assert found == special_ids(tokenizer, load_causal(folder, Dtype.float32))
    return found


# Which ids end a response -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MADE)
def test_case_8_the_end_of_a_turn_ends_a_response(kind: str) -> None:
    tokenizer = MADE[kind]()
    found = special_ids(tokenizer, make_causal(tokenizer))
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(ENDS[kind])}
    assert set(found.ends) == ends and found.ends[0] == tokenizer.eos_token_id
    assert found.spare == ()


def test_case_8_generation_config_names_ends(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "model", template=None)
    word = load_tokenizer(folder)("film", add_special_tokens=False)["input_ids"][-1]
    assert told(folder).ends == (0,)
    named_ends(folder, [3, 0])
    assert told(folder).ends == (0, 3)
    named_ends(folder, 3)
    assert told(folder).ends == (0, 3)
    named_ends(folder, [0, word])  # somebody wants a word to end it
    assert told(folder).ends == (0, word)
    named_ends(folder, [0, 1, 4000])  # the pad is never said; there is no id 4000
    assert told(folder).ends == (0,)
    (folder / GENERATION).unlink()
    assert told(folder).ends == (0,)


def test_case_8_a_word_that_an_architecture_names_by_default_ends_nothing(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "model", template=None, eos_token_id=70)
    assert told(folder).ends == (0,)


def test_case_20_ids_without_a_token_are_known(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "spare", rows=450)
    count = len(load_tokenizer(folder))
    assert told(folder).spare == tuple(range(count, 450))
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<far>"])
    tokenizer.get_vocab = lambda: {"a": 0, "b": 2, "c": 5}  # holes, as merged vocabularies have
    holes = special_ids(tokenizer, make_causal(tokenizer, rows=8))
    assert holes.spare == (1, 3, 4, 6, 7)


def test_case_20_the_shipped_model_has_one_end_and_no_spare_ids() -> None:
    tokenizer = load_tokenizer(FOLDER)
    assert special_ids(tokenizer, SpokenModel.at(FOLDER)) == SpecialIds(eos=0, pad=1)
    names = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    assert names == {END, PAD} and tokenizer.chat_template is None


# Sampling and log-probabilities -------------------------------------------------------------------


def pulled(towards: tuple[int, ...], boost: float = 4.0, seed: int = 0) -> Any:
    """A model that likes to say some ids."""
    model = tiny_causal(seed=seed)
    head = model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
    with torch.no_grad():
        head.bias[list(towards)] = boost
    return model


def actors_of(sampling: Sampling) -> Actors:
    """A policy that likes its ends, the pad, and ids without a token, and another reference."""
    liked = (EOS_ID, PAD_ID, OTHER, *SPARE)
    policy = PolicyWithValue(pulled(liked), IDS, sampling)
    made = replace_policy(tiny_actors(sampling=sampling), policy)
    made.reference = Reference(policy, pulled(liked, 1.0, seed=3))
    return made


def replace_policy(actors: Actors, policy: PolicyWithValue) -> Actors:
    return replace(actors, policy=policy)


def logits_of(model: Any, rollout: Rollout, row: int) -> Tensor:
    """The model's logits where each token of a response was chosen."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]]
    said = rollout.response_ids[row][rollout.response_mask[row]]
    with torch.no_grad():
        logits: Tensor = model(torch.cat([prompt, said])[None]).logits[0]
    return logits[len(prompt) - 1 : -1].double()


SAMPLINGS = [
    Sampling(min_new_tokens=3, max_new_tokens=12),
    Sampling(min_new_tokens=3, max_new_tokens=12, top_p=0.9, temperature=1.3),
    Sampling(min_new_tokens=3, max_new_tokens=12, top_k=5),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_case_8_20_what_is_sampled_and_what_is_learnt_agree(sampling: Sampling) -> None:
    actors = actors_of(sampling)
    actors.full_kl = True
    prompts = make_prompts([3, 5, 2, 4] * 12, max_new=12, min_new=3)
    rollout = actors.roll_out(prompts, ("ends",))
    ended_by = set()
    for row in range(len(prompts)):
        said = rollout.response_ids[row][rollout.response_mask[row]].tolist()
        ends = [t for t, i in enumerate(said) if i in IDS.ends]
        assert ends == ([len(said) - 1] if rollout.finished[row] else [])
        assert not set(said) & {PAD_ID, *SPARE} and all(t >= 3 for t in ends)
        assert rollout.finished[row] or len(said) == 12
        ended_by |= {said[t] for t in ends}
        found = []
        for model in (actors.policy.model, actors.reference.frozen):
            logits = logits_of(model, rollout, row) / sampling.temperature
            logits[:, [PAD_ID, *SPARE]] = -torch.inf
            logits[:3, list(IDS.ends)] = -torch.inf
            if rollout.kept is not None:
                for t, count in enumerate(rollout.kept.counts[row][: len(said)].tolist()):
                    first = int(rollout.kept.starts[row, t])
                    kept = rollout.kept.ids[first : first + count].long()
                    if count:
                        mask = torch.ones(VOCABULARY, dtype=torch.bool)
                        mask[kept] = False
                        logits[t, mask] = -torch.inf
            found.append(logits.log_softmax(dim=1))
        picked = torch.tensor(said)[:, None]
        for logp, kept in zip(found, (rollout.logp, rollout.ref_logp), strict=True):
            expected = logp.gather(1, picked)[:, 0].float()
            torch.testing.assert_close(kept[row][: len(said)], expected, atol=2e-4, rtol=1e-4)
        p = found[0].exp()
        kl = torch.where(p > 0, p * (found[0] - found[1]), 0.0).sum(dim=1).float()
        assert rollout.full_kl is not None
        torch.testing.assert_close(rollout.full_kl[row][: len(said)], kl, atol=2e-4, rtol=1e-3)
    assert ended_by == set(IDS.ends)


def test_case_20_an_id_without_a_token_has_no_probability_and_no_gradient() -> None:
    head = torch.nn.Linear(8, 30)
    states = torch.randn(5, 8)
    masked = Choices(ids=torch.tensor([3, 20, 4, 7, 2]), spare=torch.tensor([20, 21]))
    for budget in (0, 2**20):
        head.zero_grad()
        logp, entropy = token_logp(states, head, masked, budget)
        assert logp[1] == -torch.inf and logp[[0, 2, 3, 4]].isfinite().all()
        (logp[[0, 2, 3, 4]].sum() + entropy.sum()).backward()
        assert head.weight.grad is not None
        assert not head.weight.grad[[20, 21]].any() and head.weight.grad[[19, 22]].any()
        allowed = (states @ head.weight.t() + head.bias)[:, [*range(20), *range(22, 30)]]
        p = allowed.log_softmax(dim=1)
        torch.testing.assert_close(entropy, -(p.exp() * p).sum(dim=1))


def test_case_8_every_end_is_banned_alike() -> None:
    banned = torch.tensor([True, False])
    choices = Choices(ids=torch.tensor([2, 2]), eos=0, other_ends=(7, 9), banned=banned)
    logits = torch.zeros(2, 12)
    choices.impose_(logits)
    assert (logits[0] < -1e29).nonzero().flatten().tolist() == [0, 7, 9]
    assert not logits[1].any()


def test_case_8_one_end_and_no_spare_ids_say_the_same_bytes() -> None:
    model, prompts = pulled((EOS_ID,)), make_prompts([3, 5, 2] * 6)
    one = SpecialIds(eos=EOS_ID, pad=PAD_ID)
    before = generate(model, prompts, Sampling(), one, ("same",))
    never = replace(one, others=(PAD_ID,), spare=(PAD_ID,))  # nothing that could be said
    after = generate(model, prompts, Sampling(), never, ("same",))
    assert torch.equal(before.ids, after.ids) and torch.equal(before.finished, after.finished)


def test_full_softmax_masks_nothing_on_request() -> None:
    full = Sampling(logprob_mask=LogprobMask.full)
    policy = PolicyWithValue(pulled(()), IDS, full)
    said = generate(policy.model, make_prompts([3]), full, IDS, ("full",))
    choices = policy.choices(unscored(make_prompts([3]), said))
    assert choices.spare is None and choices.banned is None


# Stages and commands ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    return write_jsonl(folder / "reviews.jsonl", (review(number) for number in range(80)))


def sft_of(model: Path, data: Path, out: Path, **sft: Any) -> Path:
    """The SFT artifact of a run."""
    out.mkdir()
    SFTStage(Context(run_on(model, data, sft=sft))).run(out)
    return out


@pytest.mark.parametrize("train", [False, True])
def test_case_8_what_is_exported_says_what_ends(reviews: Path, tmp_path: Path, train: bool) -> None:
    model = model_at(tmp_path / "model")
    made = sft_of(model, reviews, tmp_path / "sft", train=train)
    assert json.loads((made / GENERATION).read_text())["eos_token_id"] == [0, 3]
    assert json.loads((made / GENERATION).read_text())["pad_token_id"] == 1
    actors = load_actors(run_on(model, reviews), made)
    assert actors.policy.ids == SpecialIds(eos=0, pad=1, others=(3,))
    export_policy(actors, run_on(model, reviews).model.lora, tmp_path)
    assert told(tmp_path / "policy").ends == (0, 3)
    assert json.loads((tmp_path / "policy" / GENERATION).read_text())["eos_token_id"] == [0, 3]


def test_case_8_with_one_end_the_exported_file_stays_as_it_is(
    reviews: Path, tmp_path: Path
) -> None:
    model = model_at(tmp_path / "model", template=None)
    made = sft_of(model, reviews, tmp_path / "sft", train=False)
    assert (made / GENERATION).read_bytes() == (model / GENERATION).read_bytes()


def biased(folder: Path, towards: int) -> Path:
    """The model, whose last token is nearly always this."""
    model = load_causal(folder, Dtype.float32)
    with torch.no_grad():
        model.model.norm.weight.zero_()[0] = 1.0
        model.model.embed_tokens.weight[:, 0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()[towards, 0] = 9.0
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("template", "ends"), [(CHATML, True), (None, False)])
def test_case_8_generate_and_judge_compare_stop_at_the_end_of_a_turn(
    template: str | None, ends: bool, tmp_path: Path
) -> None:
    folder = biased(model_at(tmp_path / "model", template=template), 3)
    (found,), (first,) = (continuations(folder, ["What of it?"], 4, n, 1.0, 0) for n in (8, 1))
    assert found == first and any(found[1]) == ends  # the first token is never an end
    item = Item(row=0, text="What of it?", max_new=8)
    made = Generations(tmp_path, Prompting([item], None), GenerationSettings(top_p=0.5))
    (said,) = made.of(Player("one", folder), lambda _: None)
    assert (said.tokens, said.finished) == ((1, True) if ends else (8, False))
    made.close()


def test_case_8_sampled_pairs_stop_at_the_end_of_a_turn(reviews: Path, tmp_path: Path) -> None:
    folder = biased(model_at(tmp_path / "model"), 3)
    config = replace(run_on(folder, reviews), rollout=Sampling(eos_masked_before=1))
    stage = SampledPairsStage(Context(config))
    (said,) = stage._responses("train", 3, TextGenerator.load(folder))
    assert said.finished.all() and (said.lengths == 2).all()


def test_case_20_generate_says_no_id_without_a_token(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "model", template=None, rows=450)
    biased(folder, 440)
    (found,) = continuations(folder, ["What of it?"], 3, 8, 1.0, 0)
    assert all(found[1])  # it would be nothing at all


# Keys ---------------------------------------------------------------------------------------------


def test_keys_hold_only_what_departs_from_the_plain_case(reviews: Path, tmp_path: Path) -> None:
    plain = model_at(tmp_path / "plain", template=None)
    closing = make_tokenizer(closes=True)
    closes = save(tmp_path / "closes", make_causal(closing), closing)
    spare = model_at(tmp_path / "spare", template=None, rows=420)
    spelling = [review(n) for n in range(80)]
    spelling[9]["text"] += " <|im_start|>"
    names = write_jsonl(tmp_path / "names.jsonl", spelling)
    wanted = {
        (plain, reviews): None,
        (model_at(tmp_path / "two"), reviews): ["several ends"],
        (closes, reviews): ["texts are closed"],
        (spare, reviews): ["ids without a token"],
        (plain, names): ["names are text"],
    }
    for (model, data), found in wanted.items():
        for stage in ("sft", "reward_model"):
            assert key_of(run_on(model, data), stage)["inputs"].get("ids") == found, (model, stage)
    parsed = key_of(run_on(plain, names, special_tokens=SpecialTokens.parse), "sft")
    assert "ids" not in parsed["inputs"]
