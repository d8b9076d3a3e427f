"""FIGA: its loss by hand, what its batches hold, what its trainer divides by, and its stage."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import tiny_causal
from built_stages import build, furnish, stage_of
from tokencredit.config import Config
from tokencredit.data.pairs import Pair
from tokencredit.errors import UserError
from tokencredit.ops import figa_terms
from tokencredit.settings import FIGA, FIGATraining, PairSource
from tokencredit.stages.context import Context
from tokencredit.stages.figa import FIGAStage, Loss, figa_trainer, held_out_loss, marked_nll
from tokencredit.stages.trainer import train, trainer_settings

NAN, END = math.nan, 2
PAPER: dict[str, Any] = {"gate": 0.6, "alpha": 1.0, "beta": 0.5}


def terms(
    nll: list[float], put_in: list[int], taken_out: list[int], **settings: Any
) -> tuple[float, int]:
    total, count = figa_terms(
        torch.tensor(nll),
        torch.tensor(put_in, dtype=torch.bool),
        torch.tensor(taken_out, dtype=torch.bool),
        **{**PAPER, **settings},
    )
    return total.item(), int(count)


# The formula ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "total", "count"),
    [
        ({}, 1.5 + 0.2 - 0.5 * 0.4, 3),  # .7 is above the gate
        ({"gate": None}, 1.5 + 0.2 - 0.5 * (0.4 + 0.7), 4),
        ({"gate": 0.3}, 1.5 + 0.2, 2),
        ({"gate": 0.7}, 1.5 + 0.2 - 0.5 * (0.4 + 0.7), 4),  # the bound itself passes
        ({"alpha": 2.0, "beta": 0.0}, 2 * (1.5 + 0.2), 3),  # counted all the same
    ],
)
def test_papers_FIGA_by_hand(settings: dict[str, Any], total: float, count: int) -> None:
    # Put in: 1.5 and .2. Taken out: .4 and .7. The 9s are of tokens that were kept.
    found = terms([1.5, 9, 0.2, 0.4, 9, 0.7], [1, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 1], **settings)
    assert found == pytest.approx((total, count), abs=1e-6)


def test_the_gate_is_where_a_token_has_a_probability_of_0_549() -> None:
    for probability, passes in ((0.548, 0), (0.549, 1)):
        assert terms([-math.log(probability)], [0], [1])[1] == passes


def test_the_gate_has_no_gradient_and_what_is_not_marked_may_be_poison() -> None:
    nll = torch.tensor([1.5, NAN, 0.4, 0.7, math.inf], requires_grad=True)
    put_in = torch.tensor([True, False, False, False, False])
    taken_out = torch.tensor([False, False, True, True, False])
    total, count = figa_terms(nll, put_in, taken_out, **PAPER)
    (total / count).backward()
    assert total.item() == pytest.approx(1.3) and int(count) == 2
    assert nll.grad is not None and nll.grad.tolist() == [0.5, 0, -0.25, 0, 0]


def test_nothing_marked_is_nothing() -> None:
    assert terms([1.0, 2.0], [0, 0], [0, 0]) == (0.0, 0)


rows_of = st.lists(
    st.tuples(st.floats(0, 20, width=32), st.sampled_from(["in", "out", "kept"])),
    min_size=1,
    max_size=8,
)


@given(rows_of, st.randoms(use_true_random=False), st.integers(0, 8))
def test_it_is_a_sum_over_tokens_in_any_order_and_any_parts(
    row: list[tuple[float, str]], random: Any, cut: int
) -> None:
    def of(some: list[tuple[float, str]]) -> tuple[float, int]:
        marks = [[int(mark == kind) for _, mark in some] for kind in ("in", "out")]
        return terms([x for x, _ in some], *marks)

    total, count = of(row)
    turned = random.sample(row, len(row))
    assert of(turned) == pytest.approx((total, count), abs=1e-4)
    halves = [of(part) for part in (row[:cut], row[cut:]) if part]
    assert sum(n for _, n in halves) == count
    assert sum(x for x, _ in halves) == pytest.approx(total, abs=1e-4)


# Batches ----------------------------------------------------------------------------------------


def loss_of(**settings: Any) -> Loss:
    return Loss(FIGA(**settings), frozenset({END}), 0)


def edits(count: int, seed: int = 0) -> list[Pair]:
    """Made-up pairs of different lengths that share some tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> list[int]:
        return torch.randint(3, 40, (size,), generator=generator).tolist()

    found = []
    for n in range(count):
        shared = draw(2 + n % 3)
        found.append(
            Pair(
                prompt_ids=draw(2 + n % 3),
                rejected_ids=[*shared, *draw(1 + n % 4), END],
                chosen_ids=[*draw(1 + n % 2), *shared, END],
            )
        )
    return found


def whole(model: Any, pairs: list[Pair], loss: Loss) -> tuple[Tensor, Tensor]:
    return loss.terms(model, loss.batch([loss.row(pair) for pair in pairs]))


def middle(pairs: list[Pair]) -> float:
    """A gate that lets half of what was taken out pass, under the tiny model's first weights."""
    loss = loss_of(gate=None)
    nll, _, taken_out = marked_nll(tiny_causal().eval(), loss.batch([loss.row(p) for p in pairs]))
    return nll[taken_out].median().item() + 1e-3


def test_edited_tokens_are_marked_and_the_end_of_the_revised_answer_alone() -> None:
    pair = Pair(prompt_ids=[5, 6], rejected_ids=[7, 8, 9, END], chosen_ids=[7, 4, END])
    loss = loss_of()
    batch = loss.batch([loss.row(pair)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 4, END, 0], [5, 6, 7, 8, 9, END]]
    assert batch["put_in"].int().tolist() == [[0, 0, 0, 1, 1, 0], [0] * 6]
    assert batch["taken_out"].int().tolist() == [[0] * 6, [0, 0, 0, 1, 1, 0]]


def test_an_answer_that_was_cut_has_no_end_to_learn() -> None:
    row = loss_of().row(Pair(prompt_ids=[5], rejected_ids=[7, 8], chosen_ids=[7, 4]))
    assert row["put_in"] == [False, False, True] and row["taken_out"] == [False, False, True]


def test_the_likelihood_of_a_token_is_that_behind_what_stands_before_it() -> None:
    model, pair, loss = tiny_causal().eval(), edits(1)[0], loss_of(gate=None)
    nll, put_in, taken_out = marked_nll(model, loss.batch([loss.row(pair)]))
    rows = [[*pair.prompt_ids, *x] for x in (pair.chosen_ids, pair.rejected_ids)]
    wanted = []
    for ids, marks in zip(rows, list(loss.row(pair).values())[2:], strict=True):
        for place in (n for n, marked in enumerate(marks) if marked):  # type: ignore[arg-type,var-annotated]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
            wanted.append(-torch.log_softmax(logits, dim=-1)[ids[place]].item())
    assert nll.tolist() == pytest.approx(wanted, abs=1e-4)
    assert (put_in ^ taken_out).all()


def test_padding_company_and_order_of_pairs_change_nothing() -> None:
    pairs = edits(6)
    model, loss = tiny_causal().eval(), loss_of(gate=middle(pairs))
    with torch.no_grad():
        total, count = whole(model, pairs, loss)
        turned, again = whole(model, pairs[::-1], loss)
        apart = [whole(model, [pair], loss) for pair in pairs]
        none, every = (whole(model, pairs, loss_of(gate=gate))[1] for gate in (1e-9, None))
    assert none < count < every  # the gate lets some pass, and not all
    assert again == count == sum(int(n) for _, n in apart)
    for other in (turned, torch.stack([x for x, _ in apart]).sum()):
        assert other.item() == pytest.approx(total.item(), abs=1e-4)


@pytest.mark.parametrize("gated", [True, False])
def test_micro_batches_learn_what_the_whole_batch_does(gated: bool, tmp_path: Path) -> None:
    """Their divisor is the whole batch's, also where the gate decides how large that is."""
    ends, gate = [], middle(edits(4)) if gated else None
    for micro in (None, 2, 1):
        training = FIGATraining(learning_rate=1e-2, batch_size=4, micro_batch_size=micro)
        model, loss = tiny_causal(), loss_of(gate=gate)
        common = trainer_settings(training, tmp_path / str(micro), 0, True, 3)
        figures = train(figa_trainer(model, edits(4), loss, common), "algorithm.training")
        ends.append((figures["loss"], next(model.parameters()).detach().clone()))
    for found, weight in ends[1:]:
        assert found == pytest.approx(ends[0][0], abs=1e-5)
        assert torch.allclose(weight, ends[0][1], atol=1e-5)


def test_the_gate_is_asked_of_the_weights_of_the_step() -> None:
    pairs = edits(4)
    model, loss = tiny_causal().eval(), loss_of(gate=middle(pairs))
    batch = loss.batch([loss.row(pair) for pair in pairs])
    first = loss.gated(model, batch)["taken_out"]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    second = loss.gated(model, batch)["taken_out"]
    assert first.any() and not torch.equal(first, second)
    assert not (first & ~batch["taken_out"]).any()


# The stage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("figa"))


def config_of(place: Path, **settings: Any) -> Config:
    config: Config = stage_of("figa", place, place / "store").context.config
    assert isinstance(config.algorithm, FIGA)
    return replace(config, algorithm=replace(config.algorithm, **settings))


def test_it_leaves_a_language_model_with_the_loss_of_held_out_revisions(place: Path) -> None:
    from transformers import AutoModelForCausalLM

    stage = FIGAStage(Context(config_of(place)))
    artifact = build(stage)
    figures = artifact.manifest["figures"]
    assert figures["held_out"] == 4 and figures["pairs"] > 4
    assert len(figures["curve"]["loss"]) == figures["steps"]
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder)
        for folder in (stage.made("sft"), artifact.path)
    )
    pairs, loss = edits(5), loss_of(gate=None, beta=0.0)
    assert held_out_loss(before, pairs, loss) != held_out_loss(after, pairs, loss)


def test_it_moves_from_what_was_taken_out_to_what_was_put_in(tmp_path: Path) -> None:
    model, pairs, loss = tiny_causal(), edits(4), loss_of(gate=None)
    before = held_out_loss(model, pairs, loss)
    training = FIGATraining(learning_rate=1e-2, batch_size=4)
    common = trainer_settings(training, tmp_path, 0, True, 20)
    train(figa_trainer(model, pairs, loss, common), "algorithm.training")
    assert held_out_loss(model, pairs, loss) < before - 0.5


def test_its_parents_are_sft_and_revisions(place: Path) -> None:
    config = config_of(place)
    assert set(FIGAStage(Context(config)).parents()) == {"sft", "revisions"}
    sampled = replace(config, reviser=replace(config.reviser, pairs=PairSource.sampled))
    parents = FIGAStage(Context(sampled)).parents()
    assert set(parents) == {"sft", "revisions", "sampled_pairs"}


@pytest.mark.parametrize(
    "settings",
    [{"gate": None}, {"alpha": 2.0}, {"beta": 0.1}, {"training": FIGATraining(epochs=1.5)}],
)
def test_every_setting_is_in_its_key(settings: dict[str, Any], place: Path) -> None:
    plain, other = (FIGAStage(Context(config_of(place, **each))) for each in ({}, settings))
    assert plain.key != other.key


def test_too_short_a_length_leaves_nothing_to_learn_from(place: Path) -> None:
    config = config_of(place)
    short = replace(config.algorithm.training, max_length=8)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"algorithm\.training\.max_length = 8: no revision is lef"):
        build(FIGAStage(Context(config_of(place, training=short))))


def test_another_algorithm_has_no_such_stage(place: Path) -> None:
    config = stage_of("dpo", place, place / "store").context.config
    with pytest.raises(UserError, match="must be algorithm=figa"):
        FIGAStage(Context(config)).inputs()


@pytest.mark.parametrize("settings", [{"gate": 0.0}, {"alpha": 0.0}, {"beta": -0.1}])
def test_numbers_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    (key,) = settings
    with pytest.raises(UserError, match=rf"algorithm\.{key} = "):
        FIGA(**settings)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    def says(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.full((*input_ids.shape, 50), NAN))

    model = SimpleNamespace(eval=lambda: None, device="cpu")
    with pytest.raises(UserError, match="figa"):
        held_out_loss(_callable(model, says), edits(2), loss_of())


def _callable(model: SimpleNamespace, says: Any) -> Any:
    class Model:
        device = model.device

        def eval(self) -> None:
            return

        __call__ = staticmethod(says)

    return Model()
