"""`tokencredit.credit`: the same judges and schemes, whatever the models and texts come as."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

import tokencredit
from builders import EOS_ID, PAD_ID, tiny_causal, tiny_classifier, train_tokenizer
from tokencredit.errors import UserError
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.models.actors import Actors
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.log_ratio import LogRatio, as_it_is
from tokencredit.models.passes.computation import Computation
from tokencredit.models.policy import PolicyWithValue, Reference, SpecialIds
from tokencredit.models.scorer import Scorer
from tokencredit.ops import last_token
from tokencredit.rewards.attribution import Attribution
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rollout import Prompts, Rollout, padded

PROMPTS = ["the movie was", "I think the plot"]
RESPONSES = [" good and the actors were wonderful", " awful 🎬"]
TOKENIZER = train_tokenizer()
IDS = [TOKENIZER(text)["input_ids"] + [EOS_ID] for text in RESPONSES]


def credit(**given: Any) -> tokencredit.Credit:
    return tokencredit.credit(PROMPTS, RESPONSES, **{"tokenizer": TOKENIZER, **given})


def rollout() -> Rollout:
    """The same texts as a batch, made by hand."""
    prompts = Prompts.padded([TOKENIZER(text)["input_ids"] for text in PROMPTS], PAD_ID)
    ids, mask = padded(IDS, PAD_ID)
    yes = torch.ones(2, dtype=torch.bool)
    return Rollout.blank(prompts, ids, mask, finished=yes, stopped=~yes)


def lists(values: torch.Tensor) -> list[Any]:
    mask = rollout().response_mask
    return [
        pytest.approx(row[own].tolist(), abs=1e-5) for row, own in zip(values, mask, strict=True)
    ]


def test_attention_is_paid_as_judge_and_scheme_pay_it() -> None:
    said = rollout()
    verdict = AttentionJudge().judging(Scorer(tiny_classifier(), PAD_ID))(said)
    found = credit(reward_model=tiny_classifier(), overrides=["reward_scheme.beta=0.5"])
    assert found.rewards == lists(Redistribute(beta=0.5).token_rewards(said, verdict))
    assert found.evidence == lists(verdict.evidence)
    assert found.scores == pytest.approx(verdict.scores.tolist(), abs=1e-5)
    assert found.ids == IDS and found.finished == [True, True] and len(found) == 2
    assert found.prompts == PROMPTS


def test_attribution_is_paid_as_judge_and_scheme_pay_it() -> None:
    said = rollout()
    verdict = AttributionJudge(steps=4).judging(Scorer(tiny_classifier(), PAD_ID))(said)
    found = credit(
        reward_model=tiny_classifier(), scheme="attribution", overrides=["judge.steps=4"]
    )
    assert found.rewards == lists(Attribution().token_rewards(said, verdict))
    assert set(found.notes) == {"completeness_gap", "baseline_score"}


def ratio(reference: int) -> torch.Tensor:
    models = [as_it_is(tiny_causal(seed=seed)) for seed in (3, reference)]
    return LogRatio(*models, computation=Computation(), filler=EOS_ID)(rollout())


def test_the_implicit_judge_compares_the_dpo_model_with_its_reference() -> None:
    pair = {"dpo": tiny_causal(seed=3), "reference": tiny_causal(seed=4)}
    found = credit(**pair, scheme="rto", scorer="judge")
    assert found.evidence == lists(ratio(4)) and found.rewards != found.evidence
    assert found.scores == pytest.approx((0.1 * ratio(4).sum(dim=1)).tolist(), abs=1e-5)


def test_the_reference_of_the_penalty_is_read_under_the_sampled_distribution() -> None:
    pair = {"dpo": tiny_causal(seed=3), "reference": tiny_causal(seed=4)}
    more = ["judge.reference=kl", "rollout.temperature=2.0"]
    found = credit(**pair, scheme="rto", scorer="judge", overrides=more)
    model = tiny_causal(seed=4)
    policy = PolicyWithValue(model, SpecialIds(eos=EOS_ID, pad=PAD_ID), Sampling(temperature=2.0))
    scored = Actors(policy, Reference(policy, model), TOKENIZER).score(rollout())
    models = [as_it_is(tiny_causal(seed=3))] * 2
    wanted = LogRatio(*models, computation=Computation(), filler=EOS_ID).against(scored)
    assert found.evidence == lists(wanted)


def test_a_policys_attention_needs_the_policy() -> None:
    found = credit(policy=tiny_causal(), reward_model=tiny_classifier(), scheme="abc_d")
    assert found.evidence[0][-1] == 0 and found.evidence[0][0] > 0


def test_an_ensemble_reads_its_members_in_order() -> None:
    members = [tiny_classifier(seed=seed) for seed in (1, 2)]
    chosen = {"judge": "ensemble", "scheme": "sparse", "overrides": ["judge.members=2"]}
    alone = [credit(reward_model=member, scheme="sparse").scores for member in members]
    both = credit(reward_model=members, **chosen).scores
    assert both == pytest.approx([sum(each) / 2 for each in zip(*alone, strict=True)], abs=1e-5)


def test_folders_and_models_in_memory_give_the_same(tmp_path: Path) -> None:
    tiny_classifier().save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    told = credit(reward_model=tmp_path / "model", tokenizer=None)
    assert told.rewards == credit(reward_model=tiny_classifier()).rewards


def test_a_model_in_memory_stays_as_it_was() -> None:
    model = tiny_classifier("gpt2").train()
    model.transformer.drop.p = 0.1
    credit(reward_model=model)
    assert model.training and model.transformer.drop.p == 0.1
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert type(model.transformer.h[0].mlp.act).__name__ == "NewGELUActivation"


def test_components_stand_for_names() -> None:
    own = {"judge": AttentionJudge(heads=[0]), "scheme": Redistribute(beta=0.3)}
    named = {"overrides": ["judge.heads=[0]", "reward_scheme.beta=0.3"]}
    model = tiny_classifier()
    assert credit(reward_model=model, **own).rewards == credit(reward_model=model, **named).rewards


@dataclass(slots=True, kw_only=True)
class Broken(RewardScheme):
    """Pays where nothing is."""

    def token_rewards(self, rollout: Rollout, judgement: Any) -> torch.Tensor:
        return torch.ones(rollout.response_mask.shape)


def test_a_scheme_of_ones_own_is_held_to_its_promises() -> None:
    with pytest.raises(UserError, match="pays nothing where masked"):
        credit(reward_model=tiny_classifier(), scheme=Broken())


def test_a_program_under_hydra_goes_on() -> None:
    class Running:
        pass

    GlobalHydra.instance().hydra = Running()  # type: ignore[assignment]
    try:
        before = GlobalHydra.instance().hydra
        credit(reward_model=tiny_classifier(), scheme="uniform")
        assert GlobalHydra.instance().hydra is before
    finally:
        GlobalHydra.instance().clear()


def test_ids_are_taken_as_they_are_and_ends_are_seen() -> None:
    model, prompts = tiny_classifier(), [TOKENIZER(text)["input_ids"] for text in PROMPTS]
    cut = [IDS[0], IDS[1][:-1]]
    found = tokencredit.credit(prompts, cut, tokenizer=TOKENIZER, reward_model=model)
    assert found.finished == [True, False] and found.ids == cut
    texts = credit(reward_model=model, finished=[True, False])
    assert texts.ids == cut and texts.rewards[1] == pytest.approx(found.rewards[1], abs=1e-6)
    assert credit(reward_model=model, finished=False).ids == [ids[:-1] for ids in IDS]


def test_a_response_that_a_stop_string_ended_has_no_end_token() -> None:
    model, ids = tiny_classifier(), [ids[:-1] for ids in IDS]
    before = ["reward_model.score_at=before_end"]
    stopped, cut = (
        tokencredit.credit(
            PROMPTS, ids, tokenizer=TOKENIZER, reward_model=model, finished=done, overrides=before
        )
        for done in (True, False)
    )
    assert stopped.finished == [True, True] and cut.finished == [False, False]
    assert stopped.scores == pytest.approx(cut.scores)  # both read at the last token


def test_tokens_are_the_pieces_of_the_text() -> None:
    found = credit(reward_model=tiny_classifier())
    assert "".join(found.tokens[0][:-1]) == RESPONSES[0] and found.tokens[0][-1] == "<|endoftext|>"
    assert found.tokens[1][-2:] == ["🎬", "<|endoftext|>"]
    assert set(found.tokens[1][:-2]) & {"�"}  # bytes of a character that a later token completes
    assert [len(row) for row in found.tokens] == [len(ids) for ids in IDS]


def test_a_conversation_is_written_by_the_template() -> None:
    chat = train_tokenizer(chat=True)
    turns = [{"role": "user", "content": "how was it?"}]
    found = tokencredit.credit([turns], ["good"], tokenizer=chat, reward_model=tiny_classifier())
    assert found.prompts == ["<user>how was it?\n<assistant>"]


MODEL, LM = tiny_classifier(), tiny_causal()
LONG = [" good" * 90, " bad"]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "reward_model: is missing; judge = AttentionJudge reads it"),
    ({"reward_model": MODEL, "policy": LM}, "policy: is given, but neither judge = AttentionJudge nor scorer = RewardModelJudge reads it; leave it out (they read reward_model)"),
    ({"reward_model": MODEL, "scheme": "abc_d"}, "policy: is missing; judge = PolicyAttentionJudge"),
    ({"scheme": "rto", "dpo": LM}, "reference: is missing; judge = ImplicitJudge reads it"),
    ({"scheme": "rto", "dpo": LM, "reference": LM}, "reward_model: is missing; scorer = RewardModelJudge reads it for the scores that are paid; give a model, a folder, or a name on the hub, or scorer=judge"),
    ({"scheme": "uniform", "judge": "ensemble", "reward_model": MODEL}, "reward_model[1]: is missing; judge = EnsembleJudge"),
    ({"reward_model": "./no/folder"}, "reward_model = 'no/folder': there is no such folder"),
    ({"reward_model": 3}, "reward_model: is a int; give a model, a folder"),
    ({"reward_model": MODEL, "tokenizer": None}, "tokenizer: is missing, and no folder"),
    ({"reward_model": MODEL, "overrides": ["steps=3"]}, "steps: is none of the keys that credit reads"),
    ({"reward_model": MODEL, "overrides": ["reward_scheme.bet=1"]}, "did you mean 'beta'?"),
    ({"reward_model": MODEL, "judge": "reward_model"}, "gives none evidence, but Redistribute needs"),
    ({"reward_model": MODEL, "scheme": "abd"}, "there is no such option, did you mean 'abc_d'"),
    ({"reward_model": MODEL, "finished": [True]}, "finished: has 1 values for 2 responses"),
    ({"reward_model": LM}, "reward_model"),
    ({"reward_model": MODEL, "device": "tpu"}, "hardware.device"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_what_cannot_be_done_is_one_line_that_says_why(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        credit(**given)
    assert said in str(error.value) and "\n" not in str(error.value)


PAIRS: list[tuple[Sequence[Any], Sequence[Any], str]] = [
    ("a", ["b"], "prompts: is a str; give a list"),
    (["a"], ["b", "c"], "there are 2 to 1 prompts"),
    ([], [], "and at least one"),
    (["a"], [" \n"], "responses[0]: has no token"),
    ([""], ["a"], "prompts[0]: has no token"),
    ([[5, 999]], ["a"], "prompts[0]: 999 is no id of the tokenizer, which has 300"),
    (["a"], [["b"]], "responses[0]: 'b' is no id"),
    ([[{"role": "user", "content": "a"}]], ["b"], "the model's tokenizer has no chat template"),
    (["a", "b"], LONG, "reads at most 96 tokens, and the longest prompt has"),
]


@pytest.mark.parametrize(("prompts", "responses", "said"), PAIRS, ids=[s[:30] for *_, s in PAIRS])
def test_texts_that_make_no_tokens_are_named(
    prompts: Sequence[Any], responses: Sequence[Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        tokencredit.credit(prompts, responses, tokenizer=TOKENIZER, reward_model=MODEL)
    assert said in str(error.value)


def test_pages_escape_text_and_files_hold_the_numbers(tmp_path: Path) -> None:
    told = "<script>alert(1)</script>"
    found = tokencredit.credit([told], [told], tokenizer=TOKENIZER, reward_model=MODEL)
    page = found.save(tmp_path / "a.html").read_text()
    part = found._repr_html_()
    for html in (page, part):
        assert "<script" not in html and "&lt;script" in html.replace("</span>", "").lower()
        assert html.count('class="token"') == len(found.tokens[0]) and "evidence: +" in html
    assert "<body" not in part and "default-src 'none'" in page
    (row,) = map(json.loads, found.save(tmp_path / "a.jsonl").read_text().splitlines())
    assert row == json.loads(json.dumps(found.rows()[0]))
    assert row["rewards"] == found.rewards[0] and row["ids"] == found.ids[0]
    with pytest.raises(UserError, match="ends with none of"):
        found.save(tmp_path / "a.txt")


def test_show_prints_the_table_where_there_is_no_notebook(
    capsys: pytest.CaptureFixture[str],
) -> None:
    credit(reward_model=MODEL).show()
    said = capsys.readouterr().out
    assert "good and the actors" in said and "shaded by token reward" in said


def test_a_function_reads_further_columns(tmp_path: Path) -> None:
    (tmp_path / "rate.py").write_text(
        "def rate(prompts, responses, offsets, worth):\n"
        "    return worth, [[1.0] * len(places) for places in offsets]\n"
    )
    chosen = {"judge": "function", "scheme": "attribution"}
    where = [f"judge.function={tmp_path / 'rate.py'}:rate"]
    found = credit(**chosen, overrides=where, columns={"worth": [2.0, 3.0]})
    assert found.scores == [2.0, 3.0] and sum(found.rewards[1]) == pytest.approx(3)


def test_the_last_token_is_paid_what_is_left() -> None:
    found = credit(reward_model=MODEL, scheme="sparse")
    last = last_token(rollout().response_mask)
    assert found.rewards == lists(torch.tensor(found.scores)[:, None] * last)
