"""One function makes the ids: of demonstrations, pairs, scored texts, and prompts of rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders import tiny_causal
from case_data import review
from case_ids import WHOLE, agree, alone, continued, learnt, talk
from case_models import CHATML, make_tokenizer
from case_templates import ENDS, MADE
from tokencredit.data.dataset import PromptSpec
from tokencredit.data.pairs import read_pairs
from tokencredit.data.prompts import prompt_ids
from tokencredit.data.records import Record
from tokencredit.data.token_ids import OPENED, TokenIds
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.shipped import FOLDER
from tokencredit.settings import SFT
from tokencredit.stages.label_model import examples
from tokencredit.stages.sft import demonstrations
from tokencredit.stages.trainer import trainer_settings

every_template = pytest.mark.parametrize("kind", MADE)


# The eight templates ------------------------------------------------------------------------------


@every_template
@pytest.mark.parametrize("turns", [(), ("Which film?", "<think>hm</think>This.", "And?")])
def test_case_8_9_11_all_read_the_same_conversation(kind: str, turns: tuple[str, ...]) -> None:
    tokenizer = MADE[kind]()
    record = talk(3, *turns)
    prompt, answer = agree(record, tokenizer)
    end = tokenizer.convert_tokens_to_ids(ENDS[kind])
    assert answer[-1] == end and answer.count(end) == 1
    assert tokenizer.decode(answer[:-1]) == record.answer
    text = tokenizer.apply_chat_template(
        list(record.messages or ())[:-1], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(prompt) == text
    if tokenizer.bos_token_id is not None:
        assert prompt.count(tokenizer.bos_token_id) == text.count("<s>") <= 1


@every_template
def test_case_9_texts_and_prompts_have_what_opens_and_nothing_that_closes(kind: str) -> None:
    tokenizer = MADE[kind]()
    bare = tokenizer("What of it?", add_special_tokens=False)["input_ids"]
    opens = kind in {"llama", "gemma", "bos", "closes"}
    opening = [tokenizer.bos_token_id] * opens
    prompt, answer = agree(continued(1, "What of it?", " It was fine."), tokenizer)
    assert prompt == [*opening, *bare]
    assert answer[-1] == tokenizer.eos_token_id and answer.count(tokenizer.eos_token_id) == 1

    text = Record(row=0, text=review(1)["text"] * 2, label=1)
    ids = TokenIds(tokenizer)
    read, learns = learnt(text, ids)
    assert read == learns == examples([text], ids, WHOLE, 0)[0]["input_ids"]
    assert read.count(tokenizer.eos_token_id) == 1 and read[: len(opening)] == opening
    for tokens in range(2, 8):
        spec = PromptSpec(min_tokens=tokens, max_tokens=tokens + 1)
        assert prompt_ids(text, tokenizer, spec, 5) == read[:tokens]
    short = Record(row=0, text="It was.", label=1)
    long = PromptSpec(min_tokens=50, max_tokens=51)
    assert tokenizer.eos_token_id not in prompt_ids(short, tokenizer, long, 5)


def test_case_9_an_answer_that_joins_its_prompt_is_split_for_all_alike() -> None:
    tokenizer = make_tokenizer()
    joined = tokenizer("It was lovely")["input_ids"]
    prompt, answer = agree(continued(1, "It was lovel", "y"), tokenizer)
    assert joined[: len(prompt)] != prompt
    assert tokenizer.decode(prompt) == "It was lovel" and tokenizer.decode(answer[:-1]) == "y"


@pytest.mark.parametrize("packing", [False, True])
def test_sft_trains_on_the_ids_that_trl_makes_of_texts(packing: bool, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = load_tokenizer(FOLDER)
    texts = [review(n, 10 * (n % 5))["text"] + " <br />  " * (n % 3) for n in range(40)]
    texts += ["two  spaces\n\n", "naïve 🎬 — café", "it’s 10/10 <s>good</s> [SEP] "]
    records = [Record(row=n, text=text) for n, text in enumerate(texts)]
    settings = SFT(packing=packing, max_length=48, batch_size=4, max_tokens=None)
    steps, rows, noted = demonstrations(records, TokenIds(tokenizer), settings)
    assert noted == {}

    def prepared(dataset: Any) -> list[tuple[list[int], list[int]]]:
        arguments = trainer_settings(settings, tmp_path, 3, True, steps)
        trainer = SFTTrainer(
            model=tiny_causal(vocab_size=len(tokenizer)),
            args=SFTConfig(
                **arguments,
                max_length=48,
                packing=packing,
                packing_strategy="wrapped",
                shuffle_dataset=True,
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        return [(row["input_ids"], row["labels"]) for row in trainer.train_dataset]

    found = prepared(rows)
    assert found == prepared(Dataset.from_list([{"text": text} for text in texts]))
    assert len(found) > 20


# Thoughts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("<think>\nweigh it</think>It was lovely.", "weigh it</think>It was lovely."),
        ("<think>weigh it</think>It was lovely.", "weigh it</think>It was lovely."),
        ("\n<think>\nweigh it</think>It was lovely.", "weigh it</think>It was lovely."),
        ("It was <think>lovely.", "It was <think>lovely."),
    ],
)
def test_case_11_what_the_template_has_opened_is_not_opened_again(said: str, read: str) -> None:
    tokenizer = MADE["thinks"]()
    record = talk(2, answer=said)
    prompt, answer = agree(record, tokenizer)
    assert tokenizer.decode(prompt).endswith("<think>\n")
    assert tokenizer.decode(answer[:-1]) == read
    _, _, noted = demonstrations([alone(record)], TokenIds(tokenizer), SFT())
    assert noted == ({"noted": {OPENED: 1}} if read != said else {})
    assert read_pairs([record], tokenizer, 500)[1][OPENED] == (read != said)


@pytest.mark.parametrize("kind", ["two ends", "alternates"])
def test_case_11_a_template_that_opens_nothing_leaves_thoughts_as_they_are(kind: str) -> None:
    tokenizer = MADE[kind]()
    said = "<think>weigh it</think>It was lovely."
    _, answer = agree(talk(2, answer=said), tokenizer)
    assert tokenizer.decode(answer[:-1]) == said


def test_case_8_a_template_that_ends_turns_with_the_pad_ends_answers_with_the_end() -> None:
    tokenizer = make_tokenizer(template=CHATML.replace("<|im_end|>", "<|pad|>"))
    assert TokenIds(tokenizer).turn_end == tokenizer.eos_token_id  # nobody can say a pad
    agree(talk(1), tokenizer)
