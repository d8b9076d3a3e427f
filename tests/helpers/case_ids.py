"""Records in three forms, and what every consumer of their ids reads."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerFast

from case_data import answers
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.pairs import read_pairs
from tokencredit.data.prompts import PromptStream, prompt_ids
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.evaluation.compare.prompts import Item, Prompting
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.settings import SFT, RewardModel
from tokencredit.stages.label_model import examples
from tokencredit.stages.sft import demonstrations

WHOLE = RewardModel(min_length=500, max_length=500, max_tokens=None)


def talk(number: int, *turns: str, answer: str | None = None) -> Record:
    """A labelled conversation and pair: the turns, or one question, and a good and a bad answer."""
    good, bad = answers(number)
    said = turns or (f"What of film {number}?",)
    roles = ("user", "assistant") * len(said)
    before = tuple({"role": r, "content": t} for r, t in zip(roles, said, strict=False))
    messages = (*before, {"role": "assistant", "content": answer or good})
    text = "\n".join(turn["content"] for turn in messages)
    return Record(row=number, text=text, messages=messages, rejected=bad, label=number % 2)


def continued(number: int, prompt: str, answer: str) -> Record:
    return Record(
        row=number,
        text=prompt + answer,
        prompt=prompt,
        completion=answer,
        rejected=" No.",
        label=number % 2,
    )


def alone(record: Record) -> Record:
    """The record as a demonstration, without the answer that lost."""
    return replace(record, rejected=None)


def learnt(record: Record, ids: TokenIds) -> tuple[list[int], list[int]]:
    """Ids that SFT reads of a demonstration, and those of them that it learns."""
    _, rows, _ = demonstrations([alone(record)], ids, SFT(max_length=500, max_tokens=None))
    return rows[0]["input_ids"], [i for i in rows[0]["labels"] if i >= 0]


def paired(record: Record, ids: TokenIds) -> tuple[list[int], list[int], list[int]]:
    """Prompt, chosen, and rejected ids, as DPO and the reward model of pairs are given them."""
    (pair,), _ = read_pairs([record], ids, 500)
    return pair.prompt_ids, pair.chosen_ids, pair.rejected_ids


def agree(record: Record, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Prompt and answer of a record, which must be the same to every consumer."""
    ids = TokenIds(tokenizer)
    prompt, answer, rejected = paired(record, ids)
    assert learnt(record, ids) == (prompt + answer, answer)
    assert examples([record], ids, WHOLE, 0)[0]["input_ids"] == prompt + answer
    stream = PromptStream([record], ids, PromptSpec(), Sampling(), 500)
    batch = stream.batch(0, 0, 1)
    assert batch.ids[0].tolist() == prompt == prompt_ids(record, tokenizer, PromptSpec(), 7)
    assert answer[-1] == rejected[-1] and answer != rejected
    messages = None if record.messages is None else record.messages[:-1]
    asked = Item(row=0, text=record.prompt or "", max_new=5, messages=messages)
    assert Prompting([asked], None).encode(tokenizer) == [prompt]
    return prompt, answer
