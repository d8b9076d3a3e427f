"""A discriminator on a task in which the truth about every token is known.

    python experiments/tlcr/known_tokens.py

Every polar word is good after cues of one kind and bad after cues of the other, and the cue stands
at least three tokens earlier, so no word says by itself what it is worth. Answers that hold bad
words are revised, and the discriminator learns from the alignment of both alone, with the loss,
trainer, and reading of judge=discriminator. It is measured on combinations of cue and word that it
has never seen together, beside a logistic regression on the token and the bag of all words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from tokencredit.data.pairs import as_rollout, read_pairs
from tokencredit.data.records import Record
from tokencredit.data.token_ids import TokenIds
from tokencredit.judges.discriminator import judging
from tokencredit.models.discriminator import CLASSES, Discriminator
from tokencredit.rewards.tlcr import TLCR
from tokencredit.stages.discriminator import Edited, edit_trainer, edited, measured
from tokencredit.stages.trainer import seed_generators, train, trainer_settings
from tokencredit.statistics.intervals import mean_ci
from tokencredit.store.files import write_json
from tokencredit.training_settings import JudgeTraining

CUES: Final = [[f"cue{kind}{n}" for n in range(6)] for kind in "ab"]
WORDS: Final = [[f"{kind}{n}" for n in range(6)] for kind in ("ruby", "coal")]
"""A word is good after the cues of its own kind, and bad after the others."""
FILLERS: Final = [f"filler{n}" for n in range(12)]
GAP: Final = 3
"""Fillers between the cue and the answer."""
BAD: Final = 0.85
"""Chance that a polar word of a rejected answer is bad."""


@dataclass(frozen=True)
class Task:
    """Draws pairs of one seed: of combinations that are learnt from, or of those held out."""

    dice: np.random.Generator
    held_out: bool

    def drawn(self, words: list[str], count: int = 1) -> list[str]:
        """So many of the words."""
        return [words[int(place)] for place in self.dice.integers(len(words), size=count)]

    def words(self, cue: tuple[int, int], kind: int) -> list[str]:
        """The words of that kind that may stand after a cue; one of each kind is held out."""
        unseen = WORDS[kind][(cue[1] + kind) % len(WORDS[kind])]
        return [word for word in WORDS[kind] if (word == unseen) is self.held_out]

    def record(self, row: int) -> Record:
        """A prompt with its cue, a rejected answer, and what the reviser makes of it."""
        cue = int(self.dice.integers(2)), int(self.dice.integers(len(CUES[0])))
        good, bad = self.words(cue, cue[0]), self.words(cue, 1 - cue[0])
        rejected: list[str] = []
        revised: list[str] = []
        for _ in range(2):  # two polar words
            fillers = self.drawn(FILLERS, int(self.dice.integers(1, 4)))
            is_bad = not rejected or self.dice.random() < BAD  # one at least
            (word,) = self.drawn(bad if is_bad else good)
            rejected += [*fillers, word]
            # Never fewer polar words: their number alone would tell a revision from its original.
            revised += [*fillers, *(self.drawn(good) if is_bad else [word])]
        rest = self.drawn(FILLERS, 2)
        prompt = " ".join([CUES[cue[0]][cue[1]], *self.drawn(FILLERS, GAP)])
        before, after = (" " + " ".join([*side, *rest]) for side in (rejected, revised))
        return Record(
            row=row, text=prompt + after, prompt=prompt, completion=after, rejected=before
        )


def tokenizer_of_words() -> PreTrainedTokenizerFast:
    """One token a word."""
    words = ["<end>", "<pad>", *CUES[0], *CUES[1], *WORDS[0], *WORDS[1], *FILLERS]
    known = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<pad>"))
    known.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=known, **roles)


def pairs_of(seed: int, count: int, ids: TokenIds, *, held_out: bool) -> list[Edited]:
    """So many pairs with labels from their alignment."""
    task = Task(np.random.default_rng([seed, held_out]), held_out)
    pairs, _ = read_pairs([task.record(row) for row in range(count)], ids, 64)
    return [edited(pair, ids) for pair in pairs]


def truth(prompt: Sequence[str], answer: Sequence[str]) -> list[int]:
    """What each word of an answer is worth: 1, −1, or 0."""
    first = prompt[0] in CUES[0]
    values = dict.fromkeys(WORDS[0], 1 if first else -1)
    values |= dict.fromkeys(WORDS[1], -1 if first else 1)
    return [values.get(word, 0) for word in answer]


def discriminator(
    pairs: list[Edited], tokenizer: PreTrainedTokenizerFast, seed: int, steps: int
) -> Discriminator:
    """A model that begins as nothing, trained by the loss of edits."""
    seed_generators(seed)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            initializer_range=0.1,
            num_labels=CLASSES,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    training = JudgeTraining(
        learning_rate=3e-3, batch_size=32, weight_decay=0.1, warmup_fraction=0.05
    )
    with TemporaryDirectory() as place:
        common = trainer_settings(training, Path(place), seed, True, steps)
        train(edit_trainer(model, pairs, int(tokenizer.pad_token_id), common), "known tokens")
    return Discriminator(model)


def features(pairs: Sequence[Edited], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each edited token: its word, all words of prompt and answer, and whether it is good."""
    rows, labels = [], []
    for each in pairs:
        sides = ((each.pair.rejected_ids, each.rejected), (each.pair.chosen_ids, each.revised))
        for ids, wanted in sides:
            bag = torch.bincount(torch.tensor([*each.pair.prompt_ids, *ids]), minlength=size)
            for token, label in zip(ids, wanted, strict=False):  # the end token has no label
                if label != 0.5:
                    word = torch.nn.functional.one_hot(torch.tensor(token), size)
                    rows.append(torch.cat([word, bag]).float())
                    labels.append(label)
    return torch.stack(rows), torch.tensor(labels)


def bag_of_words(learnt: Sequence[Edited], held_out: Sequence[Edited], size: int) -> float:
    """Accuracy on edited tokens of a logistic regression on the token and the bag of all words."""
    inputs, labels = features(learnt, size)
    weights = torch.zeros(inputs.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        odds = inputs @ weights[:-1] + weights[-1]
        found = torch.nn.functional.binary_cross_entropy_with_logits(odds, labels)
        found = found + 1e-4 * weights.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    others, wanted = features(held_out, size)
    with torch.no_grad():
        said = others @ weights[:-1] + weights[-1] > 0
    return float((said == (wanted == 1)).float().mean())


def paid_and_true(
    model: Discriminator, pairs: Sequence[Edited], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[float], list[int]]:
    """What `tlcr` pays to each token of the answers but their end, and what it is worth."""
    paid: list[float] = []
    worth: list[int] = []
    for side in ("rejected_ids", "chosen_ids"):
        answers = [getattr(each.pair, side) for each in pairs]
        prompts = [each.pair.prompt_ids for each in pairs]
        rollout = as_rollout(prompts, answers, int(tokenizer.pad_token_id))
        rewards = TLCR().token_rewards(rollout, judging(model)(rollout))
        for row, prompt, answer in zip(rewards, prompts, answers, strict=True):
            words = tokenizer.convert_ids_to_tokens(answer[:-1])
            paid += row[: len(words)].tolist()
            worth += truth(tokenizer.convert_ids_to_tokens(prompt), words)
    return paid, worth


def measure(seed: int, count: int, steps: int) -> dict[str, float]:
    """Of one seed: accuracies of discriminator and baseline, and the correlation with the truth."""
    tokenizer = tokenizer_of_words()
    ids, pad = TokenIds(tokenizer), int(tokenizer.pad_token_id)
    learnt = pairs_of(seed, count, ids, held_out=False)
    held_out = pairs_of(seed, 200, ids, held_out=True)
    model = discriminator(learnt, tokenizer, seed, steps)
    numbers = measured(model, held_out, pad)
    paid, worth = paid_and_true(model, held_out, tokenizer)
    return {
        "accuracy": numbers.accuracy,
        "three_class_accuracy": numbers.three_class_accuracy,
        "bag_of_words": bag_of_words(learnt, held_out, len(tokenizer)),
        "correlation": float(np.corrcoef(paid, worth)[0, 1]),
    }


def main() -> int:
    """Measure each seed and print the table; 1 where a criterion is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs to learn from")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    given = parser.parse_args()
    rows = [measure(seed, given.pairs, given.steps) for seed in range(given.seeds)]
    for seed, row in enumerate(rows):
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in row.items()))
    means = {name: mean_ci([row[name] for row in rows]) for name in rows[0]}
    for name, found in means.items():
        print(f"{name}: {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], {found.n} seeds")
    if given.out is not None:
        write_json(given.out, {"schema_version": 1, **vars(given), "out": None, "seeds": rows})
    met = (
        all(row["accuracy"] > 0.95 and row["correlation"] > 0.8 for row in rows)
        and means["bag_of_words"].mean <= 0.6
    )
    print("all criteria are met" if met else "a criterion is not met")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
