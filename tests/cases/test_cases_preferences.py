"""Row 17: margins, ranked answers, prompts alone, and columns for a reward function."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from builders import make_rollout, speaking, tiny_classifier, train_tokenizer
from case_data import answers, review, write_jsonl
from case_models import CHATML, make_tokenizer
from preferences import furnish_pairs, pair_config, pair_row
from tokencredit.algorithms.procedure import PreferenceOnly
from tokencredit.config import Config
from tokencredit.context import Context
from tokencredit.data.dataset import Dataset, PromptSpec
from tokencredit.data.pairs import read_pairs
from tokencredit.data.prompts import PromptStream
from tokencredit.data.records import Format
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus, Splits
from tokencredit.errors import UserError
from tokencredit.judges.function import FunctionJudge, further
from tokencredit.judges.same import SameAsJudge
from tokencredit.models.sampling import Sampling
from tokencredit.ops import pair_loss
from tokencredit.pipeline import plan
from tokencredit.rewards.sparse import Sparse
from tokencredit.stages.oracle import Oracle, OracleStage, fit_pairs
from tokencredit.stages.preference_model import reward_trainer
from tokencredit.stages.reward_model import RewardModel
from tokencredit.stages.sft import SFT, demonstrations
from tokencredit.stages.training import trainer_settings

ONE = Splits(sft=1.0, reward=0.0, rl=0.0, oracle=0.0, eval=0.0)
EVEN = Splits(sft=0.2, reward=0.2, rl=0.2, oracle=0.2, eval=0.2)


def dataset(path: Path, layout: Format, **more: Any) -> Dataset:
    settings = {"label_column": None, "splits": ONE, **more}
    return Dataset(source=Source.path, path=str(path), format=layout, **settings)


def pairs_of(corpus: Corpus) -> list[tuple[str, str]]:
    return [(record.answer, record.rejected or "") for record in corpus.parts["sft"]]


# Several answers --------------------------------------------------------------------------------

TURN = {"role": "user", "content": "Q"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "a", "rejected": ["b", "c"]},
        {"prompt": "Q", "chosen": ["a"], "rejected": ["b", "c"]},
        {"prompt": [TURN], "chosen": "a", "rejected": ["b", "c"]},
        {"prompt": [TURN], "chosen": [said("a")], "rejected": [said("b"), said("c")]},
        {"chosen": [TURN, said("a")], "rejected": [[TURN, said("b")], [TURN, said("c")]]},
        {"prompt": "Q", "chosen": said("a"), "rejected": [[said("b")], said("c")]},
    ],
)
def test_case_17_each_rejected_answer_makes_a_pair(row: dict[str, Any], tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    corpus = dataset(path, Format.preference).read()
    assert pairs_of(corpus) == [("a", "b"), ("a", "c")]
    assert {record.row for record in corpus.parts["sft"]} == {0}
    assert [record.answer for record in demonstrations(corpus.parts["sft"])] == ["a"]


def test_case_17_pairs_of_one_row_are_counted_one_by_one(tmp_path: Path) -> None:
    row = {"prompt": "Q", "chosen": "a", "rejected": ["b", "a", ""]}
    good = {"prompt": "Q", "chosen": "a", "rejected": "b"}
    path = write_jsonl(tmp_path / "a.jsonl", [row, *[good] * 60])
    corpus = dataset(path, Format.preference).read()
    assert corpus.dropped.counts == {"chosen equals rejected": 1, "empty response": 1}
    with pytest.raises(UserError, match="2 of 63 records are unusable"):
        dataset(path, Format.preference, strict=True).read()


@pytest.mark.parametrize(
    "row",
    [
        {"responses": ["w", "x", "y", "z"], "scores": [0.5, 3, -1, 0.5]},
        {"answers": ["w", "x", "y", "z"], "ranks": [2, 1, 3, 2]},
        {"completions": [said(t) for t in "wxyz"], "rank": [2, 1, 3, 2]},
        {"answers": [[TURN, said(t)] for t in "wxyz"], "score": [1, 2, 0, 1]},
    ],
)
def test_case_17_ranked_answers_become_every_pair_of_different_rank(
    row: dict[str, Any], tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Q", **row}])
    corpus = dataset(path, Format.ranked).read()
    assert pairs_of(corpus) == [*[("x", t) for t in "wzy"], ("w", "y"), ("z", "y")]
    assert [record.answer for record in demonstrations(corpus.parts["sft"])] == ["x"]


def test_case_17_ranks_that_say_nothing_are_counted(tmp_path: Path) -> None:
    good = {"prompt": "Q", "answers": ["a", "b"], "ranks": [1, 2]}
    bad = [
        {**good, "ranks": [1, 1]},
        {**good, "ranks": [1]},
        {**good, "ranks": [1, "best"]},
        {**good, "ranks": [1, None]},
        {**good, "ranks": [1, True]},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", [*bad, *[good] * 100])
    assert dataset(path, Format.ranked).read().dropped.counts == {
        "no answer ranks before another": 1,
        "answers and their ranks differ in number": 1,
        "a rank is not a number": 3,
    }
    path = write_jsonl(tmp_path / "b.jsonl", [{"prompt": "Q", "answers": ["a"]}])
    with pytest.raises(UserError, match="has no column 'ranks' or 'rank' or 'scores' or 'score'"):
        dataset(path, Format.ranked).read()


def test_case_17_all_pairs_of_a_prompt_are_in_one_split(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Film {n}?", "chosen": answers(n)[0], "rejected": [answers(n)[1], "Meh.", "No."]}
        for n in range(80)
    ]  # fmt: skip
    rows += [{**row, "chosen": "Yes."} for row in rows]
    corpus = dataset(write_jsonl(tmp_path / "a.jsonl", rows), Format.preference, splits=EVEN).read()
    home: dict[str | None, set[str]] = {}
    for name, part in corpus.parts.items():
        for record in part:
            home.setdefault(record.prompt, set()).add(name)
    assert len(home) == 80 and all(len(names) == 1 for names in home.values())
    assert sum(map(len, corpus.parts.values())) == 480


# Margins ----------------------------------------------------------------------------------------


def with_margins(count: int = 60) -> list[dict[str, Any]]:
    return [pair_row(n) | {"margin": float(n % 3)} for n in range(count)]


def test_case_17_margins_are_read_and_bad_ones_counted(tmp_path: Path) -> None:
    bad = ["wide", True, -1, math.nan, [1, 2]]
    rows = [pair_row(0) | {"margin": value} for value in (*bad, 2, "1.5", 0, None, "")]
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, *with_margins(100)])
    corpus = dataset(path, Format.preference).read()
    assert [record.margin for record in corpus.parts["sft"]][:5] == [2.0, 1.5, 0.0, None, None]
    assert corpus.dropped.counts == {
        "margin is not a number": 3,
        "margin is negative": 1,
        "margins and pairs differ in number": 1,
    }
    several = {"prompt": "Q", "chosen": "a", "rejected": ["b", "c"], "gap": [0.5, 2]}
    path = write_jsonl(tmp_path / "b.jsonl", [several])
    corpus = dataset(path, Format.preference, margin_column="gap").read()
    assert [record.margin for record in corpus.parts["sft"]] == [0.5, 2.0]


def test_case_17_margins_enter_fingerprints_only_where_there_are_some(tmp_path: Path) -> None:
    def prints(rows: list[dict[str, Any]], **more: Any) -> str:
        path = write_jsonl(tmp_path / "a.jsonl", rows)
        return dataset(path, Format.preference, **more).read().fingerprints["sft"]

    plain = prints([pair_row(n) for n in range(60)])
    assert prints(with_margins()) != plain
    assert prints(with_margins(), margin_column=None) == plain
    assert prints([row | {"margin": None} for row in with_margins()]) == plain


@pytest.mark.parametrize(("margin", "loss"), [(0.0, 0.554355), (1.0, 1.103186), (2.5, 2.305083)])
def test_case_17_the_loss_of_a_margin_by_hand(margin: float, loss: float) -> None:
    """-log sigmoid(1.0 - 0.7 - m), computed with a pocket calculator."""
    pair = torch.tensor([1.0]), torch.tensor([0.7])
    assert pair_loss(*pair, margin).item() == pytest.approx(loss, abs=1e-6)
    assert math.log1p(math.exp(margin - 0.3)) == pytest.approx(loss, abs=1e-6)


def test_case_17_the_trainer_takes_the_margins(tmp_path: Path) -> None:
    """RewardTrainer's loss of a batch is that of the scores of the model by hand."""
    path = write_jsonl(tmp_path / "a.jsonl", with_margins(6))
    records = dataset(path, Format.preference).read().parts["sft"]
    tokenizer = train_tokenizer()
    pairs, _ = read_pairs(records, tokenizer, 90)
    assert [pair.margin for pair in pairs] == [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]
    settings = trainer_settings(RewardModel(learning_rate=1e-3), tmp_path, 0, True, 1)

    def losses(pairs: Any) -> tuple[float, torch.Tensor]:
        model = tiny_classifier(num_labels=1).eval()
        trainer = reward_trainer(model, tokenizer, pairs, settings, None)
        # Through the trainer's own loader, which must let the column pass.
        batch = next(iter(trainer.get_train_dataloader()))
        found = batch.pop("margin", torch.zeros(len(pairs)))
        batch["margin"] = found
        with torch.no_grad():
            scores = model(batch["input_ids"], batch["attention_mask"]).logits.flatten()
            loss = float(trainer.compute_loss(model, dict(batch)))
        won, lost = scores.chunk(2)
        assert loss == pytest.approx(float(-logsigmoid(won - lost - found).mean()), abs=1e-6)
        return loss, found

    with_them, found = losses(pairs)
    assert sorted(found.tolist()) == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    without, found = losses([replace(pair, margin=None) for pair in pairs])
    assert not found.any() and with_them > without + 0.3


def test_case_17_the_oracle_learns_margins_too(tmp_path: Path) -> None:
    """A pair that is to win by 3 is held further apart than one that is to win by nothing."""
    settings = Oracle(buckets=1024, epochs=300, l2=0.0)
    better, worse = [[1], [2]], [[3], [4]]

    def gaps(margins: list[float]) -> list[float]:
        oracle = fit_pairs(better, worse, settings, 0, margins)
        with torch.no_grad():
            return (oracle(better) - oracle(worse)).tolist()

    plain, wide = gaps([]), gaps([0.0, 3.0])
    assert plain == gaps([0.0, 0.0]) and wide[0] == pytest.approx(plain[0], abs=1e-6)
    assert wide[1] > plain[1] + 0.5
    path = write_jsonl(tmp_path / "pairs.jsonl", with_margins())
    place = tmp_path / "place"
    place.mkdir()
    config = pair_config(furnish_pairs(place))
    plain_key = OracleStage(Context(config)).key
    config.dataset.path = str(path)
    assert OracleStage(Context(config)).key != plain_key


def test_case_17_dpo_refuses_margins_in_plan(tmp_path: Path) -> None:
    furnish_pairs(tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", with_margins())
    config = replace(pair_config(tmp_path), algorithm=PreferenceOnly(), store=str(tmp_path / "s"))
    with pytest.raises(UserError, match=r"dataset\.margin_column = 'margin'.*no loss of TRL's DPO"):
        plan(config)
    config.dataset.margin_column = None
    assert [each.name for each in plan(config)] == ["sft", "dpo"]


# Prompts alone ----------------------------------------------------------------------------------

PROMPTS: dict[str, tuple[Format, list[dict[str, Any]]]] = {
    "prompts": (
        Format.prompt_completion,
        [{"prompt": f"{n} plus {n % 7} is", "answer": str(n + n % 7)} for n in range(100)],
    ),
    "null completions": (
        Format.prompt_completion,
        [{"prompt": f"{n} plus 1 is", "completion": None, "answer": "x"} for n in range(100)],
    ),
    "turns": (
        Format.prompt_completion,
        [{"prompt": [{"role": "user", "content": f"Film {n}?"}], "answer": "x"} for n in range(99)],
    ),
    "messages": (
        Format.messages,
        [{"messages": [{"role": "user", "content": f"Film {n}?"}], "answer": "x"} for n in range(99)],
    ),
}  # fmt: skip


def paid(place: Path, kind: str, body: str = "prompts, responses, answer", **more: Any) -> Config:
    """A run on prompts that is paid by a function with these parameters."""
    layout, rows = PROMPTS[kind]
    furnish_pairs(place, chat=True)
    path = write_jsonl(place / "prompts.jsonl", rows)
    function = place / f"score_{len(list(place.glob('score_*')))}.py"  # modules are kept by path
    function.write_text(f"def score({body}): return [1.0] * len(responses)\n", encoding="utf-8")
    return replace(
        pair_config(place),
        store=str(place / "store"),
        runs_dir=str(place / "runs"),
        dataset=dataset(path, layout, splits=EVEN),
        judge=FunctionJudge(function=f"{function}:score"),
        scorer=SameAsJudge(),
        reward_scheme=Sparse(),
        **{"sft": SFT(train=False), "oracle": Oracle(enabled=False), **more},
    )


@pytest.mark.parametrize("kind", PROMPTS)
def test_case_17_prompts_alone_serve_a_reward_function(kind: str, tmp_path: Path) -> None:
    config = paid(tmp_path, kind)
    assert [each.name for each in plan(config)] == ["sft", "rl"]
    corpus = Context(config).corpus
    assert not corpus.dropped.counts
    stream = PromptStream(
        corpus.parts["rl"],
        make_tokenizer(template=CHATML),
        PromptSpec(),
        Sampling(min_new_tokens=2, max_new_tokens=4),
        96,
    )
    batch = stream.batch(0, 0, 4)
    by_row = {record.row: record for record in stream.records}
    for row, ids, mask in zip(batch.rows.tolist(), batch.ids, batch.mask, strict=True):
        text = stream.tokenizer.decode(ids[mask].tolist())
        record = by_row[row]
        if record.prompt is not None:
            assert text == record.prompt
        else:
            assert text == (
                f"<|im_start|>user\nFilm {row}?<|im_end|>\n<|im_start|>assistant\n"
            )  # the whole conversation is the prompt


@pytest.mark.parametrize(
    ("more", "said_what"),
    [
        ({"sft": SFT()}, r"supervised fine-tuning cannot learn; .*sft\.train=false"),
        ({"oracle": Oracle()}, r"the oracle cannot learn; set oracle\.enabled=false"),
    ],
)
@pytest.mark.parametrize("kind", ["prompts", "messages"])
def test_case_17_what_needs_answers_is_refused_in_plan(
    more: dict[str, Any], said_what: str, kind: str, tmp_path: Path
) -> None:
    config = paid(tmp_path, kind, **more)
    with pytest.raises(UserError, match=f"(100 of 100|99 of 99) records are prompts.*{said_what}"):
        plan(config)


def test_case_17_a_reward_model_needs_answers_too(tmp_path: Path) -> None:
    base = pair_config(tmp_path)
    config = replace(paid(tmp_path, "prompts"), judge=base.judge, scorer=base.scorer)
    with pytest.raises(UserError, match=r"a reward model cannot learn; use a finished one"):
        plan(config)


def test_case_17_among_answers_a_prompt_without_one_is_dropped(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "completion": "a"} for n in range(99)] + [{"prompt": "R"}]
    corpus = dataset(write_jsonl(tmp_path / "a.jsonl", rows), Format.prompt_completion).read()
    assert corpus.dropped.counts == {"empty prompt or completion": 1}
    corpus.check_answers("anything", "-")


# Columns for a reward function ------------------------------------------------------------------


def test_case_17_columns_reach_the_function_by_name(tmp_path: Path) -> None:
    config = paid(tmp_path, "prompts")
    path = tmp_path / "truth.py"
    config.judge = FunctionJudge(function=f"{path}:score")
    path.write_text(
        "def score(prompts, responses, answer, prompt, scale=2.0):\n"
        "    assert len(prompt) == len(answer) == len(responses)\n"
        "    assert all(int(a) >= int(p.split()[0]) for a, p in zip(answer, prompt))\n"
        "    return [scale * float(a) for a in answer]\n",
        encoding="utf-8",
    )
    judge = config.judge.open(Context(config), speaking(train_tokenizer()))
    rollout = replace(make_rollout([2, 3, 1]), rows=torch.tensor([7, 7, 30]))
    assert judge(rollout).scores.tolist() == [14.0 * 1, 14.0, 2.0 * 32]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("prompts, responses", {}),
        ("prompts, responses, answer", {"answer": True}),
        ("prompts, responses, offsets, answer, scale=1", {"answer": True, "scale": False}),
        ("prompts, responses, *more, answer, **others", {"answer": True}),
    ],
)
def test_case_17_what_a_function_asks_for(body: str, wanted: dict[str, bool]) -> None:
    space: dict[str, Any] = {}
    exec(f"def score({body}): pass", space)  # noqa: S102
    assert further(space["score"]) == wanted


def test_case_17_a_parameter_without_a_column_is_refused_in_plan(tmp_path: Path) -> None:
    config = paid(tmp_path, "prompts", "prompts, responses, answer, truth")
    with pytest.raises(UserError, match=r"no column for its parameter 'truth'; it has 'prompt', "):
        plan(config)
    config = paid(tmp_path, "prompts", "prompts, responses, answer, truth=None, **more")
    assert len(plan(config)) == 2


def test_case_17_columns_enter_the_key_of_the_run_alone(tmp_path: Path) -> None:
    def keys(config: Config) -> dict[str, str]:
        return {each.name: each.key for each in plan(config)}

    plain = keys(paid(tmp_path, "prompts", "prompts, responses"))
    read = keys(paid(tmp_path, "prompts"))
    assert read["sft"] == plain["sft"] and read["rl"] != plain["rl"]
    config = paid(tmp_path, "prompts")
    rows = [row | {"answer": "other", "note": 1} for row in PROMPTS["prompts"][1]]
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    assert keys(config)["rl"] != read["rl"]
    config.judge = FunctionJudge(function=f"{tmp_path / 'score_0.py'}:score")
    assert keys(config)["rl"] == plain["rl"], "columns that nobody reads change nothing"


def test_case_17_a_comparison_has_no_columns(tmp_path: Path) -> None:
    from tokencredit.evaluation.oracles import _function

    path = tmp_path / "score.py"
    path.write_text("def score(prompts, responses, answer): return 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"--oracle = .*parameter answer takes columns of data"):
        _function(f"{path}:score", [])


def test_case_17_short_texts_are_refused_in_plan(tmp_path: Path) -> None:
    place = furnish_pairs(tmp_path)
    path = write_jsonl(tmp_path / "short.jsonl", [review(n, 10) for n in range(100)])
    config = replace(pair_config(place), store=str(tmp_path / "store"))
    config.dataset = dataset(path, Format.text, label_column="label", splits=EVEN)
    with pytest.raises(UserError, match=r"dataset\.prompt\.min_characters = 200: none of"):
        plan(config)
