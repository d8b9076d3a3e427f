"""Models answer the questions of MT-Bench: every turn is put after the model's own earlier answers.

Sampled as FastChat does: the temperature is that of the question's category, and 0 is greedy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tokencredit.console import say
from tokencredit.data.records import Message
from tokencredit.data.token_ids import SpecialTokens
from tokencredit.evaluation.compare.generate import Generations, GenerationSettings
from tokencredit.evaluation.compare.players import Player
from tokencredit.evaluation.compare.prompts import Item, Prompting
from tokencredit.evaluation.mt_bench.files import Question
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import context_of, read_config
from tokencredit.tracking.progress import Progress

TEMPERATURES: Final[Mapping[str, float]] = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHERWISE: Final = 0.7
"""The temperature of other categories."""


def converse(
    player: Player,
    questions: Sequence[Question],
    settings: GenerationSettings,
    longest: int,
    temperature: float | None,
    out: Path,
) -> dict[int, tuple[str, ...]]:
    """The answers of a model to every turn of every question, by the question's number.

    Answers have at most `longest` tokens, fewer where the context has no room for them, and none
    where it has no room at all, which is said. `temperature` replaces those of the categories.
    What is known in the folder `out` is not generated again.
    """
    said: dict[int, tuple[str, ...]] = {question.number: () for question in questions}
    total = sum(len(question.turns) for question in questions)
    with Progress(total, 0, player.name) as bar:
        for turn in range(max(len(question.turns) for question in questions)):
            for warmth, group in _by_temperature(questions, turn, temperature).items():
                own = replace(
                    settings,
                    temperature=warmth or settings.temperature,
                    greedy=settings.greedy or warmth == 0,
                )
                items = [_item(q, said[q.number], turn, longest) for q in group]
                texts = _answers(player, items, own, out, bar.advance)
                for question, text in zip(group, texts, strict=True):
                    said[question.number] += (text,)
    return said


def _by_temperature(
    questions: Sequence[Question], turn: int, temperature: float | None
) -> dict[float, list[Question]]:
    """The questions that have this turn."""
    groups: dict[float, list[Question]] = {}
    for question in questions:
        if turn < len(question.turns):
            own = TEMPERATURES.get(question.category, OTHERWISE)
            groups.setdefault(own if temperature is None else temperature, []).append(question)
    return groups


def _answers(
    player: Player,
    items: Sequence[Item],
    settings: GenerationSettings,
    out: Path,
    on_progress: Callable[[int], None],
) -> list[str]:
    """The answers to conversations; empty where there is no room for one."""
    special = SpecialTokens.text if player.run is None else player.run.config.dataset.special_tokens
    ids = Prompting(list(items), None, special_tokens=special).encode(load_tokenizer(player.folder))
    room = context_of(read_config(Place(player.folder)))
    longest = [item.max_new for item in items]
    if room is not None:
        longest = [min(most, room - len(own)) for most, own in zip(longest, ids, strict=True)]
    fits = [i for i, own in enumerate(ids) if own and longest[i] >= 1]
    if len(fits) < len(items):
        say(
            f"{player.name}: {len(items) - len(fits)} conversations leave no room for an answer "
            f"(context {room}), or are refused by the chat template: the answer is left empty"
        )
    kept = [replace(items[i], max_new=longest[i]) for i in fits]
    found = [""] * len(items)
    if kept:
        prompting = Prompting(kept, None, special_tokens=special)
        with Generations(out, prompting, settings) as generations:
            for i, response in zip(fits, generations.of(player, on_progress), strict=True):
                found[i] = response.text
    return found


def _item(question: Question, said: Sequence[str], turn: int, longest: int) -> Item:
    """The conversation up to a turn; its noise is named by question and turn."""
    messages: list[Message] = []
    for asked, answer in zip(question.turns[:turn], said, strict=True):
        messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
    messages.append({"role": "user", "content": question.turns[turn]})
    return Item(
        row=len(question.turns) * question.number + turn,
        text="\n".join(message["content"] for message in messages),
        max_new=longest,
        messages=tuple(messages),
    )
