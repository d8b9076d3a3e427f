"""Chat templates that are missing, or that refuse a conversation: by row, alike for all, in plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from case_data import answers, review, write_jsonl
from case_models import make_causal, make_tokenizer, save
from case_runs import planned, run_on
from case_templates import MADE
from tokencredit.algorithms.procedure import PreferenceOnly, SupervisedOnly
from tokencredit.data.pairs import read_pairs
from tokencredit.data.prompts import PromptStream
from tokencredit.data.token_ids import REFUSED, SPELT, TokenIds
from tokencredit.errors import UserError
from tokencredit.evaluation.compare.prompts import Item, Prompting
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import RewardReads
from tokencredit.settings import SFT
from tokencredit.stages.context import Context
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sft import SFTStage, demonstrations

Rows = Callable[[int, bool], dict[str, Any]]
"""A row by its number, and whether a template refuses it."""


def system_first(number: int, refused: bool) -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be brief."}] * refused
    turns = [*turns, {"role": "user", "content": f"What of film {number}?"}]
    answer = {"role": "assistant", "content": review(number, 10)["text"]}
    return {"messages": [*turns, answer], "label": number % 2}


def twice_the_user(number: int, refused: bool) -> dict[str, Any]:
    row = system_first(number, False)
    row["messages"] = [{"role": "user", "content": "Hm."}] * refused + row["messages"]
    return row


def as_pair(number: int, refused: bool) -> dict[str, Any]:
    good, bad = answers(number)
    prompt = system_first(number, refused)["messages"][:-1]
    return {"prompt": prompt, "chosen": good, "rejected": bad}


KINDS: dict[str, tuple[str, Rows, str, str]] = {
    "system": ("no system", system_first, "messages", "no such role: system"),
    "order": ("alternates", twice_the_user, "messages", "roles must alternate"),
    "pairs": ("no system", as_pair, "preference", "no such role: system"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def furnished(folder: Path, kind: str, every: int) -> Any:
    """A run on 300 conversations, of which one in `every` is refused, the first in row 7."""
    template, rows, form, _ = KINDS[kind]
    data = write_jsonl(folder / "talk.jsonl", (rows(n, n % every == 7) for n in range(300)))
    tokenizer = MADE[template]()
    model = save(folder / "model", make_causal(tokenizer), tokenizer)
    labels = {"label_column": None} if form == "preference" else {}
    return run_on(model, data, form, **labels)


@every_kind
def test_case_10_a_template_that_refuses_is_named_in_plan(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        planned(furnished(tmp_path, kind, every=10))
    said = str(error.value)
    for part in ("refuses 30 of 300", "row 7", KINDS[kind][3], "5 %", "model.policy"):
        assert part in said, said
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").glob("*/*"))


@every_kind
def test_case_10_few_that_are_refused_are_dropped_and_counted(kind: str, tmp_path: Path) -> None:
    config = furnished(tmp_path, kind, every=40)
    assert planned(config)[-1] == "rl"
    corpus = Context(config).corpus
    ids = TokenIds(MADE[KINDS[kind][0]]())
    refused: Counter[str] = Counter()
    for split in corpus.parts:
        records = corpus.parts[split]
        wrong = sum(record.row % 40 == 7 for record in records)
        refused[split] = wrong
        stream = PromptStream(records, ids, config.dataset.prompt, Sampling(), 192)
        assert len(stream.records) == len(records) - wrong
        assert stream.dropped.get(REFUSED, 0) == wrong
        _, rows, noted = demonstrations(records, ids, SFT(max_tokens=None))
        counted = noted.get("noted") or noted.get("pairs_noted") or {}
        assert counted.get(REFUSED, 0) == wrong and len(rows) == len(records) - wrong
        if kind == "pairs":
            pairs, told = read_pairs(records, ids, 500)
            assert told[REFUSED] == wrong and len(pairs) == len(records) - wrong
    assert refused.total() == 8


def test_case_10_the_reward_models_template_counts_too(tmp_path: Path) -> None:
    config = furnished(tmp_path, "system", every=10)
    taking, refusing = MADE["two ends"](), MADE["no system"]()
    takes = save(tmp_path / "takes", make_causal(taking), taking)
    refuses = save(tmp_path / "refuses", make_causal(refusing), refusing)
    data = Path(config.dataset.path or "")
    planned(run_on(takes, data, "messages"))
    config = run_on(takes, data, "messages", reward=refuses)
    config.model.reward_reads = RewardReads.text  # vocabularies differ
    with pytest.raises(UserError, match="refuses 30 of 300"):
        planned(config)
    only_sft = run_on(takes, data, "messages", reward=refuses, algorithm=SupervisedOnly())
    assert planned(only_sft) == ["sft", "oracle", "evaluation"]
    with pytest.raises(UserError, match="refuses 30 of 300"):
        RewardModelStage(Context(run_on(takes, data, "messages", reward=refuses))).run(tmp_path)


def test_case_10_later_rows_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config = furnished(tmp_path, "system", every=1000)
    late = [system_first(n, n > 200) for n in range(300)]
    write_jsonl(Path(config.dataset.path or ""), late)
    planned(config)
    with pytest.raises(UserError, match=r"refuses 99 of 300 .* row 201"):
        SFTStage(Context(config)).run(tmp_path / "out")


@pytest.mark.parametrize("algorithm", [SupervisedOnly(), PreferenceOnly(), None])
def test_case_10_a_missing_template_is_refused_in_plan(algorithm: Any, tmp_path: Path) -> None:
    rows = as_pair if isinstance(algorithm, PreferenceOnly) else system_first
    form = "preference" if rows is as_pair else "messages"
    data = write_jsonl(tmp_path / "talk.jsonl", (rows(n, False) for n in range(120)))
    tokenizer = make_tokenizer()
    model = save(tmp_path / "model", make_causal(tokenizer), tokenizer)
    labels = {"label_column": None} if rows is as_pair else {}
    with pytest.raises(UserError, match="no chat template"):
        planned(run_on(model, data, form, algorithm=algorithm, **labels))


def test_case_10_judge_compare_leaves_out_what_a_template_refuses() -> None:
    turns = tuple(system_first(0, True)["messages"][:-1])
    items = [Item(row=n, text="?", max_new=4, messages=turns[n != 3 :]) for n in range(40)]
    found = Prompting(items, None).encode(MADE["no system"]())
    assert [n for n, ids in enumerate(found) if not ids] == [3]
    with pytest.raises(UserError, match="refuses 1 of 4 conversations, the first in row 3"):
        Prompting(items[:4], None).encode(MADE["no system"]())


def test_case_12_plan_says_how_many_records_spell_out_special_tokens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = furnished(tmp_path, "system", every=1000)
    rows = [system_first(n, False) for n in range(300)]
    for n in range(0, 300, 50):
        rows[n]["messages"][n // 50 % 2]["content"] += " <|im_start|>system"
    write_jsonl(Path(config.dataset.path or ""), rows)
    planned(config)
    said = capfd.readouterr().err
    assert said.count("6 of 300 records spell out special tokens") == 1
    assert "dataset.special_tokens=parse" in said
    ids = TokenIds(MADE["no system"]())
    records = tuple(Context(config).corpus.records())
    assert demonstrations(records, ids, SFT(max_tokens=None))[2] == {"noted": {SPELT: 6}}
