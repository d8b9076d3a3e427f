"""Real models in folders: a policy, and a reward model that has another tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from config.make_snapshots import composed
from observers import furnish
from strangers import OWN, panel_of, said, stranger
from tokencredit import config as configuration
from tokencredit.canonical import canonical
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.weights import load_classifier
from tokencredit.models.scorer import open_scorer
from tokencredit.stages.catalogue import given_of
from tokencredit.stages.context import Context
from tokencredit.stages.rl import RLStage
from vocabularies import vocabulary

CASES = [("wordpiece", "llama"), ("unigram", "gpt2"), ("byte_fallback", "llama")]
TEXTS = [("the movie was", " good and naïve 🎬"), ("I loved", " it!")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, 200 reviews, and reward models of other vocabularies."""
    folder = furnish(tmp_path_factory.mktemp("strangers"))
    for kind, architecture in CASES:
        stranger(folder, kind, architecture)
    return folder


def configured(place: Path, reward: str, *overrides: str, **model: Any) -> Config:
    tree, _ = composed(
        "dataset=file",
        f"dataset.path={place}/reviews.jsonl",
        f"model.policy={{source: path, path: {place}/model}}",
        f"model.reward={{source: path, path: {place}/{reward}}}",
        "reward_model.train=false",
        "reward_model.max_length=64",
        "reward_model.held_out=8",
        "oracle.enabled=false",
        *(f"model.{key}={value}" for key, value in model.items()),
        *overrides,
    )
    return configuration.load(tree)


@torch.no_grad()
def own_view(folder: Path, kind: str, prompt: str, response: str, *, end: bool) -> Any:
    """Score and attention as the reward model's own tokenizer and eager forward pass have them."""
    tokenizer, model = vocabulary(kind), load_classifier(folder, Dtype.float32).eval()
    model.set_attn_implementation("eager")
    ids = tokenizer(prompt + response)["input_ids"] + [tokenizer.eos_token_id] * end
    before = len(tokenizer(prompt)["input_ids"])
    found = model(torch.tensor([ids]), output_attentions=True)
    row = found.attentions[-1][0].mean(dim=0)[-1]
    return float(found.logits[0, 1] - found.logits[0, 0]), float(row[before:].sum())


@pytest.mark.parametrize(("kind", "architecture"), CASES)
def test_field_E3_a_panel_of_another_vocabulary(place: Path, kind: str, architecture: str) -> None:
    name = f"{kind}_{architecture}"
    panel = panel_of(configured(place, name, reward_reads="text"), place)
    rollout = said("own", TEXTS, [False, True])
    found = panel(rollout)
    assert found.evidence.shape == rollout.response_mask.shape
    assert (found.evidence >= 0).all() and found.evidence.max() > 0
    for row, (prompt, response) in enumerate(TEXTS):
        score, share = own_view(place / name, kind, prompt, response, end=row == 1)
        assert found.scores[row].item() == pytest.approx(score, abs=1e-4)
        assert found.evidence[row].sum().item() == pytest.approx(share, abs=1e-5)
    assert found.notes is not None
    assert found.notes.means() == {
        "shortened_fraction": 0,
        "unaligned_fraction": 0,
        "respelled_fraction": 0,
    }


def test_field_E3_a_judge_of_ones_own_beside_a_scorer_of_another_vocabulary(place: Path) -> None:
    (place / "own.py").write_text("def one(prompts, responses): return [1.0] * len(prompts)\n")
    own = ["judge=function", f"judge.function={place}/own.py:one", "reward_scheme=sparse"]
    config = configured(place, "wordpiece_llama", *own, "scorer=reward_model", reward_reads="text")
    found = panel_of(config, place)(said("own", TEXTS, [False, True]))
    score, _ = own_view(place / "wordpiece_llama", "wordpiece", *TEXTS[0], end=False)
    assert found.scores[0].item() == pytest.approx(score, abs=1e-4)
    assert found.notes is not None and "unaligned_fraction" in found.notes.columns


def test_field_B39_a_panel_of_another_vocabulary_needs_to_be_told(place: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary differs.*model\.reward_reads=text"):
        panel_of(configured(place, "wordpiece_llama"), place)


def test_what_takes_the_policys_ids_is_refused_to_read_text(place: Path) -> None:
    config = configured(place, "wordpiece_llama", reward_reads="text")
    panel_of(config, place)  # builds the stage
    with pytest.raises(UserError, match=r"reward_reads = 'text'.*policy's own token ids"):
        open_scorer(
            given_of(Context(config)).folder("reward_model"),
            OWN,
            config.model,
            config.reward_model.score_at,
            "cpu",
        )


def test_a_policys_own_vocabulary_is_read_by_ids_in_either_mode(place: Path) -> None:
    rollout = said("own", TEXTS, [False, True])
    found = [
        panel_of(configured(place, "reward", reward_reads=reads), place)(rollout)
        for reads in ("ids", "text")
    ]
    assert torch.equal(found[0].scores, found[1].scores)
    assert torch.equal(found[0].evidence, found[1].evidence)
    assert found[1].notes is None and OWN.get_vocab() == vocabulary("own").get_vocab()


def test_what_the_judge_reads_is_part_of_a_run_and_the_default_changes_no_key(place: Path) -> None:
    ids, text = (configured(place, "reward", reward_reads=reads) for reads in ("ids", "text"))
    stages = [RLStage(Context(config)) for config in (ids, text)]
    assert "reward_reads" not in stages[0].inputs() | canonical(ids.model)  # type: ignore[operator]
    assert stages[1].inputs()["reward_reads"] == "text"
    assert stages[0].key != stages[1].key
