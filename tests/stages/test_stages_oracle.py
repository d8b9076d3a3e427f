"""The independent classifier: its features, its gradient, and that it learns."""

from __future__ import annotations

import math
import zlib

import pytest
import torch

from tokencredit.errors import UserError
from tokencredit.models.bag_of_grams import BagOfGrams, features
from tokencredit.ops import pair_loss
from tokencredit.settings import Oracle
from tokencredit.stages.oracle import fit, fit_pairs

SIZE = 4096


def bucket(gram: str) -> int:
    return zlib.crc32(gram.encode()) % SIZE


def test_features_are_distinct_words_and_pairs() -> None:
    grams = ["not", "good", "not good", "good not", "don't", "good don't"]
    text = "Not good, NOT good... don't!"
    assert features(text, SIZE) == sorted({bucket(gram) for gram in grams})
    assert features("", SIZE) == [] and features("--- !!", SIZE) == []


def test_rating_by_hand() -> None:
    oracle = BagOfGrams(SIZE)
    with torch.no_grad():
        oracle.bias.fill_(0.5)
        oracle.weights[bucket("good")] = 2.0
        oracle.weights[bucket("good movie")] = 1.0
        oracle.weights[bucket("bad")] = -4.0
    rated = oracle.rate(["Good movie", "bad", "", "good good good"])
    expected = [0.5 + 3 / math.sqrt(3), 0.5 - 4, 0.5, 0.5 + 2 / math.sqrt(2)]
    assert rated.tolist() == pytest.approx(expected)


def test_a_text_is_rated_alone_as_in_company() -> None:
    oracle = BagOfGrams(SIZE)
    torch.nn.init.normal_(oracle.weights, generator=torch.Generator().manual_seed(0))
    texts = ["a good film", "", "bad", "so so so"]
    together = oracle.rate(texts)
    for text, rating in zip(texts, together, strict=True):
        assert oracle.rate([text]).item() == pytest.approx(rating.item(), abs=1e-6)


def test_gradient_points_from_bad_words_to_good_ones() -> None:
    oracle = BagOfGrams(SIZE)
    bags = [features("good", SIZE), features("bad", SIZE)]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        oracle(bags), torch.tensor([1.0, 0.0])
    )
    loss.backward()
    gradient = oracle.weights.grad
    assert gradient is not None
    assert gradient[bucket("good")].item() == pytest.approx(-0.25)
    assert gradient[bucket("bad")].item() == pytest.approx(0.25)
    assert gradient.count_nonzero().item() == 2


def toy(count: int, offset: int) -> tuple[list[str], torch.Tensor]:
    tone = ("dull and bad", "bright and good")
    texts = [f"film {offset + n} was {tone[n % 2]} they said" for n in range(count)]
    return texts, torch.tensor([float(n % 2) for n in range(count)])


def test_learns_a_separable_set_and_keeps_the_labels_apart() -> None:
    texts, labels = toy(200, 0)
    settings = Oracle(buckets=SIZE)
    bags = [features(text, SIZE) for text in texts]
    oracle = fit(bags, labels, settings, seed=0)
    held_out, truth = toy(60, 1000)
    rated = oracle.rate(held_out)
    assert ((rated > 0) == truth.bool()).all()
    flipped = fit(bags, 1 - labels, settings, seed=0)
    assert ((flipped.rate(held_out) > 0) == ~truth.bool()).all()


def test_learns_from_pairs_what_it_learns_from_labels() -> None:
    texts, labels = toy(200, 0)
    good, bad = ([t for t, label in zip(texts, labels, strict=True) if label == k] for k in (1, 0))
    better, worse = ([features(text, SIZE) for text in side] for side in (good, bad))
    oracle = fit_pairs(better, worse, Oracle(buckets=SIZE), seed=0)
    held_out, truth = toy(60, 1000)
    rated = oracle.rate(held_out)
    assert rated[truth == 1].min() > rated[truth == 0].max()
    assert oracle.bias.item() == 0  # no difference of two texts depends on it
    swapped = fit_pairs(worse, better, Oracle(buckets=SIZE), seed=0)
    assert torch.allclose(swapped.weights, -oracle.weights, atol=1e-6)


def test_gradient_of_a_pair_of_words() -> None:
    """The loss of a first pair is ln 2, and its gradient −½ of each feature's difference."""
    oracle = BagOfGrams(SIZE)
    loss = pair_loss(oracle([features("good", SIZE)]), oracle([features("bad", SIZE)]))
    assert loss.item() == pytest.approx(math.log(2))
    loss.backward()
    gradient = oracle.weights.grad
    assert gradient is not None
    assert gradient[bucket("good")].item() == pytest.approx(-0.5)
    assert gradient[bucket("bad")].item() == pytest.approx(0.5)


def test_fit_is_a_function_of_its_seed() -> None:
    texts, labels = toy(100, 0)
    bags = [features(text, SIZE) for text in texts]
    first, again, other = (fit(bags, labels, Oracle(buckets=SIZE), seed) for seed in (1, 1, 2))
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.weights, other.weights)


@pytest.mark.parametrize(
    ("field", "value"),
    [("buckets", 10), ("epochs", 0), ("learning_rate", 0.0), ("batch_size", 0), ("l2", -1.0)],
)
def test_numbers_out_of_range(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"oracle\.{field} = {value}: must"):
        Oracle(**{field: value})  # type: ignore[arg-type]
