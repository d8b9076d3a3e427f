"""The stage of the hindsight model: what it learns from, leaves, measures, and refuses; its judge."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import EOS_ID, PAD_ID, handed, make_rollout, speaking, tiny_causal, train_tokenizer
from built_stages import build, furnish, stage_of
from tokencredit.composing.chosen import composed
from tokencredit.data.pairs import as_rollout
from tokencredit.errors import UserError
from tokencredit.judges.hindsight import HindsightJudge, Reading
from tokencredit.judges.panel import Panel, open_panel
from tokencredit.judges.reward_model import RewardModelJudge
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.hindsight import HindsightModel, Outcomes, open_hindsight
from tokencredit.models.loading.model import Dtype, Model, load_tokenizer
from tokencredit.models.loading.weights import load_causal
from tokencredit.rewards.advantage_schemes import Hindsight
from tokencredit.rewards.sparse import Sparse
from tokencredit.stages.context import Context
from tokencredit.stages.hindsight import HindsightStage, Said, batch_of, read_said, rows_of
from tokencredit.stages.results import scored_samples
from tokencredit.store.files import read_json

pytestmark = pytest.mark.xdist_group("hindsight")  # one process, which trains the stage once


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("hindsight"))


def stage(place: Path, **settings: Any) -> HindsightStage:
    """The stage, its judge with these settings."""
    config = stage_of("hindsight model", place, place / "store").context.config
    assert isinstance(config.judge, HindsightJudge)
    return HindsightStage(Context(replace(config, judge=replace(config.judge, **settings))))


def training(one: HindsightStage, **numbers: Any) -> HindsightStage:
    """The same stage, trained otherwise."""
    judge = replace(one.settings, training=replace(one.settings.training, **numbers))
    return HindsightStage(Context(replace(one.context.config, judge=judge)))


def folders_of(one: HindsightStage) -> dict[str, Path]:
    """What its judge reads, by role."""
    own = build(one).path  # and before it what it is made from, whichever test comes first
    made = one.context.store.get(one.parents()["sampled_pairs"].parents()["reward_model"])
    return {"hindsight": own, "sft": one.made("sft"), "reward_model": made.path}


def test_it_leaves_adapters_outcomes_and_numbers_of_held_out_responses(place: Path) -> None:
    one = stage(place)
    artifact = build(one)
    names = {path.name for path in artifact.path.iterdir()}
    assert {"adapter_model.safetensors", "hindsight.json", "tokenizer.json"} < names
    assert "evaluation.json" in names and "README.md" not in names
    adapter = read_json(artifact.path / "adapter_config.json")
    assert (adapter["r"], adapter["lora_alpha"], adapter["use_rslora"]) == (2, 4, True)
    assert adapter["base_model_name_or_path"].startswith("../../sft/")
    assert "down_proj" in {name.rpartition(".")[2] for name in adapter["target_modules"]}
    kept = read_json(artifact.path / "hindsight.json")
    said = read_said(one.made("sampled_pairs"), "train")
    assert kept["edges"] == list(Outcomes.of([s.score for s in said], [[1], [2], [3]]).edges)
    tokenizer = load_tokenizer(one.made("sft"))
    texts = [tokenizer.decode(prefix) for prefix in kept["prefixes"]]
    assert texts == [f"Outcome {n} of 3.\n" for n in (1, 2, 3)]
    numbers, figures = read_json(artifact.path / "evaluation.json"), artifact.manifest["figures"]
    assert numbers["responses"] == figures["held_out"] == 8 and figures["responses"] == 32
    assert numbers["information"] == pytest.approx(numbers["loss_untold"] - numbers["loss_told"])
    assert numbers["information_low"] < figures["information"] < numbers["information_high"]
    assert 0 < numbers["outcome_baseline"] < 1 and 0 <= numbers["outcome_accuracy"] <= 1


def test_the_judge_gives_the_reward_models_score_and_log_h_less_log_pi(place: Path) -> None:
    one = stage(place)
    folders, tokenizer = folders_of(one), train_tokenizer()
    given = handed(folder=folders.__getitem__, model=Model(context=96))
    actors = speaking(tokenizer)
    judge = one.settings.open(given, actors)
    rollout = make_rollout([4, 2, 3], seed=3)
    found = judge(rollout)
    scored = RewardModelJudge().open(given, actors)(rollout)
    assert torch.allclose(found.scores, scored.scores, atol=1e-6)
    assert isinstance(judge, Reading)
    outcomes = judge.model.outcomes(found.scores)
    assert found.notes is not None
    assert found.notes.columns["outcome"].tolist() == outcomes.tolist()
    said = judge.model(rollout, outcomes)
    assert torch.allclose(found.evidence, said.log_h - said.log_pi, atol=1e-6)
    assert found.evidence.abs().max() > 1e-4
    assert (found.evidence[~rollout.response_mask] == 0).all()
    panel = open_panel(one.settings, RewardModelJudge(), given, actors)
    assert not isinstance(panel, Panel)  # the score is that of its own pass
    assert torch.equal(panel(rollout).scores, found.scores)


def test_the_loss_is_of_responses_alone_and_ids_are_as_they_were() -> None:
    said = [Said(0, [4, 5], [6, 7, 0], 0.25), Said(0, [4, 5], [8], 0.75)]
    rows = rows_of(said, Outcomes((0.5,), ((20, 21), (22,))))
    assert [row["input_ids"] for row in rows] == [[20, 21, 4, 5, 6, 7, 0], [22, 4, 5, 8]]
    assert [row["labels"] for row in rows] == [[-100] * 4 + [6, 7, 0], [-100] * 3 + [8]]
    batch = batch_of(rows, 1)
    assert batch["input_ids"][1].tolist() == [22, 4, 5, 8, 1, 1, 1]
    assert batch["labels"][1].tolist() == [-100, -100, -100, 8, -100, -100, -100]
    assert batch["attention_mask"][1].tolist() == [1, 1, 1, 1, 0, 0, 0]


def test_a_fresh_model_differs_from_pi_by_its_prefix_alone(place: Path) -> None:
    """Adapters begin at 0, so a model that learnt nothing is the SFT model behind other ids."""
    one = stage(place)
    build(one)
    sft = one.made("sft")
    plain, tokenizer = one.adapted_sft(sft, load_tokenizer(sft)).eval(), load_tokenizer(sft)
    ids = torch.tensor([[*one.prefixes(tokenizer)[1], 4, 5, 6]])
    with torch.no_grad():
        with_them = plain(ids).logits
        with plain.disable_adapter():
            assert torch.equal(plain(ids).logits, with_them)


WORDS = (20, 21, 22, 23)
"""All that the model below says, a word at a time."""


def few_words(folder: Path) -> Path:
    """A model that says one of four words, by the prompt more or less likely."""
    model = tiny_causal("gpt2", tie_word_embeddings=False)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        head, norm = model.lm_head.weight, model.transformer.ln_f
        norm.weight.fill_(0.3)
        norm.bias.zero_()
        norm.bias[0] = 10.0
        head.copy_(torch.randn(head.shape, generator=generator))
        head[:, 0] = -2.0
        head[list(WORDS), 0] = 0.0
    model.save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    return folder


def drawn(
    folder: Path, policy: Tensor, prompts: list[list[int]], seed: int, good: Mapping[int, float]
) -> Path:
    """Two words to each prompt, drawn from the table (n, V), as sampled pairs; a score is what the
    word is worth and logistic noise."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    for name, count in (("train", 400), ("held_out", 200)):
        lines = []
        for n in range(count):
            which = n % len(prompts)
            words = torch.multinomial(policy[which], 2, replacement=True, generator=generator)
            noise = torch.rand(2, generator=generator).clamp(1e-6, 1 - 1e-6).logit()
            row: dict[str, Any] = {"prompt_ids": prompts[which]}
            for side, word, extra in zip(("chosen", "rejected"), words, noise, strict=True):
                row |= {f"{side}_ids": [int(word)], f"{side}_score": float(extra)}
                row[f"{side}_score"] += good[int(word)]
            lines.append(json.dumps(row) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def learnt(
    one: HindsightStage, sft: Path, sampled: Path, out: Path
) -> tuple[dict[str, Any], HindsightModel]:
    """The figures and the model of the stage on these responses."""
    out.mkdir(parents=True)
    places = {"sft": sft, "sampled_pairs": sampled}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HindsightStage, "made", lambda _, role: places[role])
        figures = dict(one.run(out))
    about, tokenizer = one.settings.about(), load_tokenizer(sft)
    return figures, open_hindsight(out, sft, tokenizer, Model(context=96), "cpu", about)


@pytest.mark.slow
def test_it_learns_what_the_outcome_tells_and_nothing_where_it_tells_nothing(
    place: Path, tmp_path: Path
) -> None:
    """Against the definition: c = log p(outcome | x, a) − log p(outcome | x), its mean I(A; f | x).

    A word is worth 2 or −2, and noise is logistic: p(score > edge) = σ(worth − edge).
    """
    sft = few_words(tmp_path / "sft" / "key")
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(2, 300, (5,), generator=generator).tolist() for _ in range(8)]
    with torch.no_grad():
        logits = load_causal(sft, Dtype.float32)(torch.tensor(prompts)).logits[:, -1]
    logits[:, [EOS_ID, PAD_ID]] = -torch.inf
    policy = logits.softmax(dim=1)
    assert float(policy[:, list(WORDS)].sum(dim=1).min()) > 0.999
    one = training(stage(place, outcomes=2, lora_rank=4, lora_alpha=8), epochs=10.0, batch_size=32)
    worth = defaultdict(float, {20: 2.0, 21: -2.0, 22: 2.0, 23: -2.0})
    told = drawn(tmp_path / "told", policy, prompts, 2, worth)
    figures, model = learnt(one, sft, told, tmp_path / "hindsight" / "told")
    edge = model.outcomes.edges[0]
    values = torch.tensor([worth[word] for word in range(policy.shape[1])])
    good = torch.sigmoid(values - edge)
    exact, found, weights = [], [], []
    for row, prompt in enumerate(prompts):
        for outcome, chance in ((0, 1 - good), (1, good)):
            rollout = as_rollout([prompt] * 4, [[word] for word in WORDS], PAD_ID)
            rollout = replace(rollout, min_new=torch.ones(4, dtype=torch.long))
            found.append(model(rollout, torch.full((4,), outcome)).evidence[:, 0])
            known = chance[list(WORDS)].log() - (policy[row] * chance).sum().log()
            exact.append(known)
            weights.append((policy[row] * chance)[list(WORDS)] / len(prompts))
    c, wanted, weight = torch.cat(found), torch.cat(exact), torch.cat(weights)
    assert float((weight * wanted.abs()).sum()) > 0.4
    assert float((weight * (c - wanted).abs()).sum()) < 0.2
    assert float(torch.corrcoef(torch.stack([c, wanted]))[0, 1]) > 0.8
    chances = torch.stack([1 - good, good])
    prior = policy @ chances.t()  # (prompts, 2)
    each = (chances.log()[None] - prior.log()[:, :, None]) * chances * policy[:, None]
    information = float(each.sum(dim=(1, 2)).mean())
    assert figures["information"] == pytest.approx(information, abs=0.05)
    assert figures["information_low"] > 0.1
    assert figures["outcome_accuracy_low"] > figures["outcome_baseline"]
    nothing = drawn(tmp_path / "by lot", policy, prompts, 3, defaultdict(float))
    figures, _ = learnt(one, sft, nothing, tmp_path / "hindsight" / "lot")
    assert abs(figures["information"]) < 0.03 and figures["information_low"] < 0
    assert figures["outcome_accuracy_low"] < figures["outcome_baseline"]


def changed(folders: dict[str, Path], **settings: object) -> dict[str, Path]:
    """The folders, that of the stage with other settings; the adapters name their base from where
    it lies."""
    copy = folders["hindsight"].parent / "changed"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folders["hindsight"], copy)
    kept = read_json(copy / "hindsight.json")
    (copy / "hindsight.json").write_text(json.dumps(kept | settings))
    return {**folders, "hindsight": copy}


def test_a_folder_that_was_made_otherwise_is_refused(place: Path) -> None:
    one = stage(place)
    folders, actors = folders_of(one), speaking(train_tokenizer())

    def refusal(judge: HindsightJudge, places: dict[str, Path]) -> str:
        given = handed(folder=places.__getitem__, model=Model(context=96))
        with pytest.raises(UserError) as refused:
            judge.open(given, actors)
        return str(refused.value)

    said = refusal(replace(one.settings, outcomes=2), folders)
    assert said.startswith("judge.outcomes = 2: the model in") and "trained with 3" in said
    said = refusal(replace(one.settings, phrase="Grade"), folders)
    assert "judge.phrase = 'Grade'" in said and "trained with 'Outcome'" in said
    said = refusal(one.settings, changed(folders, base={"model.safetensors": "0"}))
    assert said.startswith("sft = ") and "is not the model" in said and "train hindsight" in said
    other = replace(actors, tokenizer=train_tokenizer(chat=True, sep_token="<|sep|>"))
    given = handed(folder=folders.__getitem__, model=Model(context=96))
    with pytest.raises(UserError, match="vocabulary differs"):
        one.settings.open(given, other)


def test_responses_that_are_too_long_are_left_out_whole(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = stage(place)
    build(one)
    said = read_said(one.made("sampled_pairs"), "train")
    prefixes = [[7] * 4, [8] * 2, [9]]
    lengths = sorted(len(s.prompt_ids) + len(s.response_ids) for s in said)
    kept, long = training(one, max_length=lengths[20] + 4).fitting(said, prefixes)
    assert long == sum(length > lengths[20] for length in lengths) == len(said) - len(kept) > 0
    assert all(len(s.prompt_ids) + len(s.response_ids) <= lengths[20] for s in kept)
    assert "left out" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"judge\.outcomes = 3: there are only 0 responses"):
        build(training(one, max_length=8))


def test_outcomes_that_the_vocabulary_cannot_tell_apart_are_refused(place: Path) -> None:
    one = stage(place)

    class Deaf:
        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            return {"input_ids": [3] * len(text.split())}

    with pytest.raises(UserError, match=r"judge\.phrase = 'Outcome': .*same ids"):
        one.prefixes(Deaf())  # type: ignore[arg-type]


def test_a_prefix_that_the_context_has_no_room_for_is_refused(place: Path) -> None:
    with pytest.raises(UserError, match=r"judge\.phrase = .* tokens.*the model reads; shorten it"):
        build(training(stage(place, phrase="so " * 200), max_length=2000))


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (Sampling(top_p=0.9), r"rollout\.top_p = 0\.9: must be 1 with judge=hindsight"),
        (Sampling(top_k=5), r"rollout\.top_k = 5: must be 0"),
        (Sampling(temperature=0.7), r"rollout\.temperature = 0\.7: must be 1"),
    ],
)
def test_responses_of_another_distribution_are_refused(
    place: Path, sampling: Sampling, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        HindsightStage(Context(replace(stage(place).context.config, rollout=sampling))).inputs()


def test_another_score_than_its_own_is_not_paid() -> None:
    given = ["judge=hindsight", "reward_scheme=sparse", "advantage_scheme=hindsight"]
    assert isinstance(composed([*given, "scorer=judge"]).judge, HindsightJudge)
    assert isinstance(composed(given).scorer, RewardModelJudge)
    for scorer in ("implicit", "ensemble"):
        with pytest.raises(UserError, match=r"scorer = '\w+': HindsightJudge says.*scorer=judge"):
            composed([*given, f"scorer={scorer}"])


def test_the_method_has_neither_critic_nor_estimator() -> None:
    config = composed(["method=hindsight"])
    assert isinstance(config.judge, HindsightJudge) and not config.uses_values
    assert isinstance(config.advantage_scheme, Hindsight)
    assert isinstance(config.reward_scheme, Sparse)
    plain = composed(["method=sparse"])
    assert scored_samples(config, 3) == scored_samples(plain, 3) + 2 * config.dpo.prompts


def test_another_judge_has_no_such_stage(place: Path) -> None:
    config = stage_of("reward model of pairs", place, place / "store").context.config
    with pytest.raises(UserError, match="judge=hindsight"):
        _ = HindsightStage(Context(config)).settings
