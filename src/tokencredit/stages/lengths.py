"""How long responses may be where nobody says so: as long as the data's own answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from tokencredit.config import Config
from tokencredit.console import say
from tokencredit.data.formats import Holds
from tokencredit.data.splits import Corpus
from tokencredit.models.decoding.sampling import OPEN, Sampling
from tokencredit.models.loading.model import Model, load_tokenizer
from tokencredit.models.loading.source import must_be_made, place_of

SHARE: Final = 0.9
"""The share of the answers that the limit leaves whole."""
ANSWERS: Final = 1000
"""How many answers are measured, spread over the data."""
TOKENS_PER_WORD: Final = 1.5


def fill_lengths(config: Config, corpus: Callable[[], Corpus]) -> None:
    """Set the limits of `rollout` that are left open (-1), so that `config.yaml` shows numbers.

    Texts keep the default ones. Other responses get one limit: the length that nine of ten of the
    data's answers do not exceed, the end token included, at most half of `model.context`.
    """
    rollout = config.rollout
    low, high, ends = rollout.min_new_tokens, rollout.max_new_tokens, rollout.eos_masked_before
    if OPEN not in (low, high):
        return
    usual = Sampling()
    if config.dataset.reader().holds is Holds.texts:
        low = usual.min_new_tokens if low == OPEN else low
        high = usual.max_new_tokens if high == OPEN else high
    if high == OPEN:
        high = max(_longest(config, corpus(), usual), low) + 1
    if low == OPEN:
        low, ends = high - 1, 1 if ends is None else ends
    config.rollout = replace(
        rollout, min_new_tokens=low, max_new_tokens=high, eos_masked_before=ends
    )


def _longest(config: Config, corpus: Corpus, usual: Sampling) -> int:
    records = [record for part in corpus.parts.values() for record in part]
    answers = [record.answer for record in records if record.answered]
    if not answers:
        say(
            f"rollout.max_new_tokens = {usual.max_new_tokens}: the data has no answers to be "
            "measured; set it to one more than the longest response"
        )
        return usual.longest
    measure, unit = _measure(config.model)
    found = quantile([measure(text) for text in answers[:: max(1, len(answers) // ANSWERS)]]) + 1
    most = config.model.context // 2
    cut = f", cut to half of model.context = {config.model.context}" if found > most else ""
    length = min(found, most)
    say(
        f"rollout.max_new_tokens = {length + 1}: responses have up to {length} tokens, as nine of "
        f"ten answers of the data ({unit}{cut}); set rollout.max_new_tokens for another length"
    )
    return length


def _measure(model: Model) -> tuple[Callable[[str], int], str]:
    """What says how many tokens a text has: the policy's tokenizer, where it is there already."""
    if must_be_made(model.policy):
        rule = f"{TOKENS_PER_WORD} tokens a word, before the tokenizer is made"
        return lambda text: math.ceil(TOKENS_PER_WORD * len(text.split())), rule
    place = place_of(model.policy, model.key_of(model.policy))
    tokenizer = load_tokenizer(place.where, place.revision)
    return (
        lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
        "by the policy's tokenizer",
    )


def quantile(lengths: Sequence[int]) -> int:
    """The least of these lengths that nine of ten do not exceed."""
    return sorted(lengths)[math.ceil(SHARE * len(lengths)) - 1]
