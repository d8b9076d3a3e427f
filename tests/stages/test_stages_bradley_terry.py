"""The reward model of a run's own pairs: which pairs, what it leaves, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import handed, make_rollout, speaking, tiny_classifier, train_tokenizer
from built_stages import build, furnish, stage_of
from tokencredit.config import Config
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError
from tokencredit.judges.attention import AttentionJudge
from tokencredit.judges.bradley_terry import BradleyTerryJudge, Preference
from tokencredit.models.loading.model import Model, load_tokenizer
from tokencredit.reviser_settings import Backend, Reviser
from tokencredit.rewards.scheme import Evidence
from tokencredit.settings import PairSource
from tokencredit.stages.bradley_terry import BradleyTerryStage
from tokencredit.stages.context import Context
from tokencredit.stages.results import scored_samples
from tokencredit.stages.revised_pairs import read_revised
from tokencredit.stages.stage import Stage
from tokencredit.store.files import read_json
from tokencredit.training_settings import Start

OWN, REVISED = "reward model of the run's pairs", "reward model of revisions"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("bradley_terry"))


def stage(place: Path, kind: str = OWN, **settings: Any) -> BradleyTerryStage:
    """The stage of that kind, its judge with these settings."""
    config: Config = stage_of(kind, place, place / "store").context.config
    assert isinstance(config.judge, BradleyTerryJudge)
    return BradleyTerryStage(Context(replace(config, judge=replace(config.judge, **settings))))


def revising(one: BradleyTerryStage, **settings: Any) -> BradleyTerryStage:
    """The same stage with other settings of the reviser."""
    config = one.context.config
    reviser: Reviser = replace(config.reviser, **settings)
    return BradleyTerryStage(Context(replace(config, reviser=reviser)))


def read(one: BradleyTerryStage, name: str) -> Any:
    """The pairs that it reads."""
    return one.pairs(name, TokenIds(load_tokenizer(one.made("sft"))))


def test_its_accuracy_is_that_of_held_out_pairs(place: Path) -> None:
    one = stage(place)
    artifact = build(one)
    figures, numbers = artifact.manifest["figures"], read_json(artifact.path / "evaluation.json")
    assert figures["held_out"] == numbers["pairs"] == 4  # reviser.held_out
    assert figures["accuracy_low"] <= figures["accuracy"] == numbers["accuracy"]
    assert figures["pairs"] == len(one.context.corpus.pairs("reward")) > 4
    assert len(figures["curve"]["loss"]) == figures["steps"]
    assert (artifact.path / "evaluation.png").is_file()
    assert len(json.loads((artifact.path / "config.json").read_text())["id2label"]) == 1


def test_it_reads_the_pairs_of_the_reviser_and_no_more(place: Path) -> None:
    one = stage(place)
    build(one)
    every, _ = read(one, "revisions")
    few, _ = read(revising(one, limit=3, held_out=2), "revisions")
    held_out, _ = read(revising(one, limit=3, held_out=2), "held_out")
    assert few == every[:3] and len(held_out) == 2
    end = load_tokenizer(one.made("sft")).eos_token_id
    assert all(pair.chosen_ids[-1] == pair.rejected_ids[-1] == end for pair in every)


def test_sampled_pairs_are_read_as_they_were_said_in_both_kinds(place: Path) -> None:
    """So a response that the length limit has cut is scored where such answers were learnt from."""
    revised = stage(place, REVISED)
    chosen = BradleyTerryStage(
        Context(
            replace(
                revised.context.config,
                judge=replace(revised.settings, pairs=Preference.preferred),
            )
        )
    )
    figures = build(revised).manifest["figures"]
    build(chosen)
    assert 0 <= figures["accuracy"] <= 1 and figures["held_out"] == 4
    own, theirs = (read(one, "revisions")[0] for one in (chosen, revised))
    end = load_tokenizer(chosen.made("sft")).eos_token_id
    said = {tuple(pair.rejected_ids[:-1]): pair.rejected_ids[-1] == end for pair in own}
    assert len(theirs) > 4 and False in said.values()
    ends = [(pair.chosen_ids[-1] == end, pair.rejected_ids[-1] == end) for pair in theirs]
    assert all(one == other for one, other in ends)
    assert {other for _, other in ends} == set(said.values())


@dataclass
class Made:
    """What stands for a stage whose parents have left these folders."""

    folders: Mapping[str, Path]
    name: str = "figa"

    def parents(self) -> Mapping[str, Path]:
        return self.folders

    def made(self, role: str) -> Path:
        return self.folders[role]


def test_an_answer_that_was_cut_has_no_end_and_its_revision_neither(tmp_path: Path) -> None:
    ids = TokenIds(train_tokenizer())
    rows = [
        {"row": n, "prompt": "the film", "chosen": "", "rejected": f" was bad{' and long' * n}"}
        for n in range(2)
    ]
    folders = {name: tmp_path / name for name in ("revisions", "sampled_pairs")}
    for folder in folders.values():
        folder.mkdir()
    (folders["revisions"] / "held_out.jsonl").write_text(
        "".join(json.dumps({**row, "revised": " was good"}) + "\n" for row in rows)
    )
    said = [[7, 8, ids.end], [7, 8, 9]]
    (folders["sampled_pairs"] / "held_out.jsonl").write_text(
        "".join(
            json.dumps({**row, "rejected_ids": x}) + "\n" for row, x in zip(rows, said, strict=True)
        )
    )
    found, noted = read_revised(_as_stage(folders), "held_out", ids, 60)
    assert noted == {} and [pair.chosen_ids[-1] == ids.end for pair in found] == [True, False]
    assert [pair.rejected_ids[-1] == ids.end for pair in found] == [True, False]
    assert found[1].chosen_ids == found[0].chosen_ids[:-1]
    alone, _ = read_revised(_as_stage({"revisions": folders["revisions"]}), "held_out", ids, 60)
    assert all(pair.rejected_ids[-1] == ids.end for pair in alone)


def _as_stage(folders: Mapping[str, Path]) -> Stage:
    return Made(folders)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "settings", "source", "parents"),
    [
        (OWN, {}, PairSource.dataset, {"sft"}),
        (OWN, {"init": Start.base}, PairSource.dataset, set()),
        (OWN, {}, PairSource.sampled, {"sft", "sampled_pairs"}),
        (OWN, {"pairs": Preference.revised}, PairSource.dataset, {"sft", "revisions"}),
        (REVISED, {}, PairSource.sampled, {"sft", "revisions", "sampled_pairs"}),
    ],
)
def test_its_parents_are_what_it_reads(
    kind: str, settings: dict[str, Any], source: PairSource, parents: set[str], place: Path
) -> None:
    one = revising(stage(place, kind, **settings), pairs=source)
    assert set(one.parents()) == parents


def test_what_decides_the_revisions_is_in_the_key_of_those_pairs_alone(place: Path) -> None:
    plain, edits = stage(place), stage(place, pairs=Preference.revised)
    others = [revising(one, max_edit_ratio=0.4, backend=Backend.lexical) for one in (plain, edits)]
    assert others[0].key == plain.key and others[1].key != edits.key != plain.key


def test_too_short_a_length_leaves_nothing_to_learn_from(place: Path) -> None:
    one = stage(place)
    short = replace(one.settings.training, max_length=8)
    with pytest.raises(UserError, match=r"judge\.training\.max_length = 8: no pair is left"):
        build(stage(place, training=short))


def test_without_held_out_pairs_there_is_no_accuracy(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = build(revising(stage(place), held_out=0)).manifest["figures"]
    assert figures["held_out"] == 0 and "accuracy" not in figures
    assert "no pair is held out" in capsys.readouterr().err


def test_another_judge_has_no_such_stage(place: Path) -> None:
    config = stage_of("discriminator", place, place / "store").context.config
    with pytest.raises(UserError, match="must be judge=bradley_terry"):
        BradleyTerryStage(Context(config)).parents()


def test_labels_alone_are_no_pairs(place: Path) -> None:
    config = stage_of("reward model of labels", place, place / "store").context.config
    other = replace(config, judge=BradleyTerryJudge())
    with pytest.raises(UserError, match=r"reviser\.pairs=sampled"):
        BradleyTerryStage(Context(other)).inputs()


def test_pairs_that_the_reward_model_has_ordered_count_as_scored(place: Path) -> None:
    config = stage(place).context.config
    sampled = replace(config, reviser=replace(config.reviser, pairs=PairSource.sampled))
    assert scored_samples(sampled, 3) == scored_samples(config, 3) + 2 * config.dpo.prompts


# The judge --------------------------------------------------------------------------------------


def test_its_score_is_read_at_the_last_token_and_it_says_nothing_of_tokens(tmp_path: Path) -> None:
    model, rollout = tiny_classifier(num_labels=1), make_rollout([6, 3, 5])
    model.save_pretrained(tmp_path)
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    given = handed(folder=lambda _: tmp_path, model=Model(context=96))
    verdict = BradleyTerryJudge().open(given, speaking(tokenizer))(rollout)
    for row, length in enumerate(rollout.lengths.tolist()):
        asked = rollout.prompt_ids[row][rollout.prompt_mask[row]]
        ids = torch.cat([asked, rollout.response_ids[row, :length]])[None]
        with torch.no_grad():
            hidden = model.base_model(input_ids=ids).last_hidden_state[0, -1]
            wanted = model.score(hidden)
        assert verdict.scores[row].item() == pytest.approx(wanted.item(), abs=1e-5)
    assert not verdict.evidence.any()


def test_its_attention_is_evidence_where_that_is_asked_for(tmp_path: Path) -> None:
    """What judge=attention reads of the same model; the scores stay."""
    tiny_classifier(num_labels=1).save_pretrained(tmp_path)
    tokenizer, rollout = train_tokenizer(), make_rollout([6, 3, 5])
    tokenizer.save_pretrained(tmp_path)
    given = handed(folder=lambda _: tmp_path, model=Model(context=96))
    plain, reading = BradleyTerryJudge(), BradleyTerryJudge(attention=True)
    assert (plain.gives(), reading.gives()) == (Evidence.none, Evidence.nonnegative)
    alone, found = (judge.open(given, speaking(tokenizer))(rollout) for judge in (plain, reading))
    assert torch.allclose(found.scores, alone.scores, atol=1e-5) and not alone.evidence.any()
    expected = AttentionJudge().open(given, speaking(tokenizer))(rollout)
    assert torch.equal(found.evidence, expected.evidence) and found.evidence.sum() > 0
    assert plain.scoring() == reading.scoring()


def test_a_folder_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    tiny_classifier(num_labels=1).save_pretrained(tmp_path)
    train_tokenizer().save_pretrained(tmp_path)
    other = train_tokenizer()
    other.add_tokens(["zebra"])
    given = handed(folder=lambda _: tmp_path, model=Model(context=96))
    with pytest.raises(UserError, match="vocabular"):
        BradleyTerryJudge().open(given, speaking(other))
