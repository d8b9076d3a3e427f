"""An independent opinion: hashed word 1–2-grams and logistic regression, on records of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float

from tokencredit.data.records import Record
from tokencredit.data.splits import Objective
from tokencredit.errors import UserError
from tokencredit.models.loading.place import Place, read_header
from tokencredit.models.loading.weights import load_into
from tokencredit.models.tokens.texts import features
from tokencredit.ops import pair_loss
from tokencredit.settings import Oracle
from tokencredit.stages.stage import Stage
from tokencredit.store.files import write_json
from tokencredit.streams import permutation, stream_key

if TYPE_CHECKING:
    from tokencredit.models.bag_of_grams import BagOfGrams


def load_oracle(folder: Path) -> BagOfGrams:
    """The trained oracle in a store artifact."""
    path = folder / "oracle.safetensors"
    (buckets,) = read_header(path, Place(path)).shapes.get("weights", (1,))
    oracle = _untrained(buckets)
    load_into(oracle, path)
    return oracle


class OracleStage(Stage):
    """Trains the oracle on its split, measures it on the evaluation split."""

    name: ClassVar[str] = "oracle"
    version: ClassVar[int] = 1

    def inputs(self) -> Mapping[str, object]:
        """Settings, reviews or pairs, and seed."""
        config, corpus = self.context.config, self.context.corpus
        corpus.check_answers("the oracle", "set oracle.enabled=false")
        pairs = self._from_pairs()
        for split in ("oracle", "eval"):  # said before anything is trained
            (corpus.check_pairs if pairs else corpus.check_labelled)(split)
        prints = corpus.fingerprints
        return ({"objective": Objective.pairs} if pairs else {}) | {
            "oracle": config.oracle,
            "data": prints["oracle"],
            "eval": prints["eval"],
            "stage_seed": config.stage_seed,
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """Train and write `oracle.safetensors`."""
        from safetensors.torch import save_file

        oracle, accuracy, held_out = self._paired() if self._from_pairs() else self._labelled()
        figures = {"accuracy": accuracy, "held_out": held_out}
        save_file(oracle.state_dict(), out / "oracle.safetensors")
        write_json(out / "figures.json", figures)
        return figures

    def _from_pairs(self) -> bool:
        wanted = self.context.config.reward_model.objective
        return self.context.corpus.objective(wanted) is Objective.pairs

    def _labelled(self) -> tuple[BagOfGrams, float, int]:
        """The oracle of labelled reviews, its accuracy on others, and how many those are."""
        settings, corpus = self.context.config.oracle, self.context.corpus
        train, held_out = corpus.labelled("oracle"), corpus.labelled("eval")
        bags = [features(record.text, settings.buckets) for record in train]
        labels = torch.tensor([float(record.label or 0) for record in train])
        oracle = fit(bags, labels, settings, self.context.config.stage_seed)
        signs = torch.tensor([2.0 * (record.label or 0) - 1 for record in held_out])
        return oracle, _right(signs * oracle.rate([r.text for r in held_out])), len(held_out)

    def _paired(self) -> tuple[BagOfGrams, float, int]:
        """The oracle of pairs of answers, the share of others it orders rightly, and how many.

        It reads the answers alone, as it does when it rates responses.
        """
        settings, corpus = self.context.config.oracle, self.context.corpus
        train, held_out = corpus.pairs("oracle"), corpus.pairs("eval")
        better, worse = (
            [features(text, settings.buckets) for text in texts] for texts in answers(train)
        )
        margins = [record.margin or 0.0 for record in train]
        oracle = fit_pairs(better, worse, settings, self.context.config.stage_seed, margins)
        chosen, rejected = (oracle.rate(texts) for texts in answers(held_out))
        return oracle, _right(chosen - rejected), len(held_out)


def _right(margins: Float[torch.Tensor, "N"]) -> float:
    """The share of margins above 0; those that are 0 count half."""
    return float(torch.heaviside(margins, torch.tensor(0.5)).mean())


def answers(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """The preferred answers of pairs, and the others."""
    return [record.answer for record in records], [record.rejected or "" for record in records]


def fit(
    bags: Sequence[Sequence[int]], labels: Float[torch.Tensor, "N"], settings: Oracle, seed: int
) -> BagOfGrams:
    """Minimise the logistic loss of labelled texts."""

    def loss(oracle: BagOfGrams, chosen: list[int]) -> torch.Tensor:
        ratings = oracle([bags[i] for i in chosen])
        return torch.nn.functional.binary_cross_entropy_with_logits(ratings, labels[chosen])

    return _minimise(loss, len(bags), settings, seed)


def fit_pairs(
    better: Sequence[Sequence[int]],
    worse: Sequence[Sequence[int]],
    settings: Oracle,
    seed: int,
    margins: Sequence[float] = (),
) -> BagOfGrams:
    """Minimise the Bradley–Terry loss of pairs; the bias cancels, and stays 0.

    `margins`: by how much each better answer should win; none, by no margin.
    """
    wins = torch.tensor(margins or [0.0] * len(better))

    def loss(oracle: BagOfGrams, chosen: list[int]) -> torch.Tensor:
        won, lost = (oracle([bags[i] for i in chosen]) for bags in (better, worse))
        return pair_loss(won, lost, wins[chosen])

    return _minimise(loss, len(better), settings, seed)


def _untrained(buckets: int) -> BagOfGrams:
    from tokencredit.models.bag_of_grams import BagOfGrams  # of a class of torch

    return BagOfGrams(buckets)


def _minimise(
    loss_of: Callable[[BagOfGrams, list[int]], torch.Tensor],
    count: int,
    settings: Oracle,
    seed: int,
) -> BagOfGrams:
    """An oracle trained with Adam; the order of the examples is a function of the seed."""
    oracle = _untrained(settings.buckets)
    optimizer = torch.optim.Adam(
        oracle.parameters(), lr=settings.learning_rate, weight_decay=settings.l2
    )
    for epoch in range(settings.epochs):
        order = permutation(stream_key(seed, "oracle", epoch), count)
        for start in range(0, len(order), settings.batch_size):
            chosen = [int(i) for i in order[start : start + settings.batch_size]]
            loss = loss_of(oracle, chosen)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    if not oracle.weights.any():
        raise UserError(
            "oracle: no weight has moved: its texts hold no words, or those of each pair are the "
            "same; use other texts, or oracle.enabled=false"
        )
    return oracle
