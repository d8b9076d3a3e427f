"""Two answers behind one another, in both orders: what is read where, and what it is centred under."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from builders import tiny_causal
from dense_advantages import dense_advantages, dense_values
from tokencredit.errors import UserError
from tokencredit.models.adapters.lora import Lora, LoraLayers, adapted, using
from tokencredit.models.advantage_model import AdvantageHead, AdvantageModel
from tokencredit.models.loading.trunk import backbone, hidden_size
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.games import Duel, Games, PiContext
from tokencredit.models.passes.packing import hidden_states
from tokencredit.ops import antisymmetry_gap, game_loss

SEPARATOR = [7, 8, 9]
DUELS = [
    Duel([10, 11, 12], [20, 21, 0], [30, 0]),
    Duel([13], [40, 0], [41, 42, 43, 44, 0]),
    Duel([14, 15, 16, 17, 18], [0], [50, 51, 0]),
]
contexts = pytest.mark.parametrize("context", list(PiContext), ids=[c.value for c in PiContext])


def make_model(architecture: str = "llama", rank: int = 4, vocabulary: int = 300) -> AdvantageModel:
    """Adapters and head are not zero."""
    model = adapted(
        tiny_causal(architecture, vocab_size=vocabulary), Lora(enabled=True, r=4, alpha=8)
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
        head = AdvantageHead(hidden_size(model), vocabulary, rank)
        head.down.weight.normal_(std=0.3, generator=generator)
        head.up.normal_(generator=generator)
    return AdvantageModel(model, head)


def games(duels: list[Duel] = DUELS, context: PiContext = PiContext.independent) -> Games:
    return Games.of(duels, SEPARATOR, 1, context)


def test_what_is_read_by_hand() -> None:
    """Prompts of 2 and 1 tokens, answers of 1, 2 and 2, 1; a separator of one token."""
    duels = [Duel([10, 11], [20], [30, 31]), Duel([12], [40, 41], [50])]
    found = Games.of(duels, [9], 1, PiContext.independent)
    assert found.ids.tolist() == [
        [10, 11, 20, 9, 30],
        [12, 40, 41, 9, 50],
        [10, 11, 30, 31, 9],
        [12, 50, 9, 40, 41],
    ]
    assert found.mask.all() and found.mask.shape == (4, 3)
    assert found.second.int().tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]]
    assert found.chosen.tolist() == [20, 30, 31, 40, 41, 50, 30, 31, 20, 50, 40, 41]
    sources = [1, 3, 4, 5, 6, 8, 11, 12, 14, 15, 17, 18]
    assert found.sources.tolist() == sources
    assert found.ids.flatten()[found.sources].tolist() == [
        11,
        9,
        30,
        12,
        40,
        9,
        11,
        30,
        9,
        12,
        9,
        40,
    ]
    assert found.policy_ids.tolist() == [[10, 11, 20], [12, 40, 41], [10, 11, 30], [12, 50, 1]]
    assert found.policy_sources.tolist() == [1, 3, 4, 7, 8, 9]  # 20; 40, 41; 30, 31; 50
    assert found.places.tolist() == [0, 3, 4, 1, 2, 5, 3, 4, 0, 5, 1, 2]
    both = Games.of(duels, [9], 1, PiContext.concat)
    assert torch.equal(both.policy_ids, both.ids) and both.places.tolist() == list(range(12))
    assert both.policy_sources.tolist() == sources


def states_of(model: AdvantageModel, ids: list[int], adapter: bool) -> Tensor:
    """Hidden states of one text, alone."""
    with using(model.model, "default" if adapter else None):
        hidden: Tensor = backbone(model.model)(torch.tensor([ids])).last_hidden_state[0]
    return hidden


def by_hand(model: AdvantageModel, duel: Duel, context: PiContext) -> Tensor:
    """Advantages of one game, from whole distributions; two passes and a loop over tokens."""
    x, a, b = map(list, duel)
    own = states_of(model, [*x, *a, *SEPARATOR, *b], adapter=True)
    behind = [*x, *a, *SEPARATOR] if context is PiContext.concat else x
    policy = model.model.get_output_embeddings()
    found = []
    for begun, front, answer in ((x, x, a), ([*x, *a, *SEPARATOR], behind, b)):
        frozen = states_of(model, [*front, *answer], adapter=False)
        for t, token in enumerate(answer):
            at = own[len(begun) + t - 1 : len(begun) + t]
            pi = policy(frozen[len(front) + t - 1 : len(front) + t]).softmax(dim=1)
            found.append(dense_advantages(model.head, at, pi, torch.tensor([token])))
    return torch.cat(found)


@contexts
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.no_grad()
def test_each_game_is_what_two_passes_over_it_alone_give(
    architecture: str, context: PiContext
) -> None:
    """So padding, other rows, and the sharing of the policy's states change nothing."""
    model = make_model(architecture)
    found, played = model(games(context=context)), games(context=context)
    orders = [*DUELS, *(Duel(d.prompt, d.other, d.one) for d in DUELS)]
    for row, duel in enumerate(orders):
        expected = by_hand(model, duel, context)
        assert torch.allclose(found[row, : len(expected)], expected, atol=1e-5)
        assert (found[row, len(expected) :] == 0).all()
        assert expected.abs().max() > 0.1
    assert model.residual(played).abs().max() < 1e-5


@torch.no_grad()
def test_papers_D7_the_first_answer_does_not_know_of_the_second() -> None:
    model = make_model()
    changed = [d._replace(other=[60, 61, 62, 0]) for d in DUELS]
    for context in PiContext:
        before, after = model(games(context=context)), model(games(changed, context))
        first = games(context=context)
        for row, duel in enumerate(DUELS):
            n = len(duel.one)
            assert torch.allclose(before[row, :n], after[row, :n], atol=1e-6)
            assert (before[row, n] - after[row, n]).abs() > 1e-3
            assert not first.second[row, :n].any() and first.second[row, n]


@torch.no_grad()
def test_the_context_of_the_policy_changes_the_second_answer_alone() -> None:
    model = make_model()
    apart, both = (model(games(context=context)) for context in PiContext)
    second = games().second
    assert torch.allclose(apart[~second], both[~second], atol=1e-6)
    assert (apart - both)[second].abs().min() > 1e-6


@contexts
@torch.no_grad()
def test_padding_and_order_change_nothing(context: PiContext) -> None:
    model = make_model()
    plain = model(games(context=context))
    assert torch.equal(model(Games.of(DUELS, SEPARATOR, 77, context)), plain)
    last = [DUELS[2], DUELS[0], DUELS[1]]
    order = [2, 0, 1, 5, 3, 4]
    assert torch.allclose(model(games(last, context)), plain[order], atol=1e-6)
    longer = Duel([70] * 9, [71] * 12, [72] * 3)
    company = model(games([*DUELS, longer], context))
    kept = [0, 1, 2, 4, 5, 6]
    assert torch.allclose(company[kept, : plain.shape[1]], plain, atol=1e-5)
    assert (company[kept, plain.shape[1] :] == 0).all()


@contexts
@torch.no_grad()
def test_poison_behind_a_row_changes_nothing(context: PiContext) -> None:
    """Every slot whose token nothing is chosen from or behind holds another id."""
    model, played = make_model(), games(context=context)
    lengths = [len(d.prompt) + len(d.one) + len(SEPARATOR) + len(d.other) - 1 for d in DUELS] * 2
    behind = torch.arange(played.ids.shape[1]) >= torch.tensor(lengths)[:, None]
    assert behind.any()
    dirty = replace(played, ids=torch.where(behind, 99, played.ids))
    assert torch.equal(model(dirty), model(played))
    assert not torch.equal(model(replace(played, ids=played.ids.clone().fill_(99))), model(played))


def gradients(model: AdvantageModel, duels: list[Duel], share: float) -> list[Tensor]:
    """Of the loss that the first answers win, weighted."""
    played = games(duels)
    outcomes = torch.tensor([1.0] * len(duels) + [-1.0] * len(duels))
    trained = [p for p in model.parameters() if p.requires_grad]
    loss = game_loss(model.outcomes(played), outcomes) * share
    return list(torch.autograd.grad(loss, trained))


def test_micro_batches_add_up() -> None:
    model = make_model()
    whole = gradients(model, DUELS, 1.0)
    parts = [gradients(model, DUELS[:1], 1 / 3), gradients(model, DUELS[1:], 2 / 3)]
    for together, a, b in zip(whole, *parts, strict=True):
        assert torch.allclose(together, a + b, atol=1e-5, rtol=1e-4)
    assert sum(g.abs().max() > 1e-3 for g in whole) > 4  # adapters and both factors of the head


def test_training_leaves_the_policy_as_it_is_to_the_bit() -> None:
    model, played = make_model(), games()
    states, head = model.policy(played)
    before, weight = states.clone(), head.weight.clone()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    outcomes = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    for _ in range(5):
        loss = game_loss(model.outcomes(played), outcomes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    states, head = model.policy(played)
    assert torch.equal(states, before) and torch.equal(head.weight, weight)
    assert trained == [p for p in model.parameters() if p.requires_grad]
    assert not torch.equal(states_of(model, [10, 11], adapter=True), states_of(model, [10, 11], adapter=False))  # fmt: skip


def test_papers_D4_the_first_loss_is_one_and_a_swap_turns_the_label() -> None:
    model = make_model()
    torch.nn.init.zeros_(model.head.up)
    there = torch.tensor([1.0, -1.0, 1.0])
    outcomes = torch.cat([there, -there])
    assert game_loss(model.outcomes(games()), outcomes).item() == 1.0
    assert outcomes.mean() == 0


def test_the_loss_by_hand() -> None:
    """Errors 0.5, 1.5, and of a tie 0.2: (0.25 + 2.25 + 0.04) / 3; without the tie 1.25."""
    predicted, outcomes = torch.tensor([0.5, 0.5, -0.2]), torch.tensor([1.0, -1.0, 0.0])
    assert game_loss(predicted, outcomes).item() == pytest.approx(2.54 / 3)
    assert game_loss(predicted, outcomes, ties=False).item() == pytest.approx(1.25)
    poisoned = torch.tensor([0.5, 0.5, torch.nan], requires_grad=True)
    loss = game_loss(poisoned, outcomes, ties=False)
    loss.backward()
    assert loss.item() == pytest.approx(1.25)
    assert poisoned.grad is not None and poisoned.grad.tolist() == pytest.approx([-0.5, 1.5, 0])
    assert game_loss(predicted[2:], outcomes[2:], ties=False).item() == 0


def test_the_gap_of_two_orders_by_hand() -> None:
    there, back = torch.tensor([0.5, -1.0, 0.25]), torch.tensor([-0.5, 0.75, 0.5])
    assert antisymmetry_gap(there, back).item() == pytest.approx((0 + 0.25 + 0.75) / 3)


@torch.no_grad()
def test_papers_D8_only_the_independent_policy_centres_whole_second_answers() -> None:
    """Ten ids and answers of two: Σ over y₂ of π(y₂|x) A([x, y₁], y₂), all 100 of them listed."""
    model, x, y1 = make_model(vocabulary=10), [2, 3], [4, 0]
    answers = [list(y) for y in itertools.product(range(10), repeat=2)]
    policy = model.model.get_output_embeddings()
    gaps = {}
    for context in PiContext:
        played = games([Duel(x, y1, y) for y in answers], context)
        said = model(played)[: len(answers)]
        total = torch.where(played.second[: len(answers)], said, 0.0).sum(dim=1)
        chances = []
        for y in answers:
            logp = policy(states_of(model, [*x, *y], adapter=False)).log_softmax(dim=1)
            chances.append(logp[1, y[0]] + logp[2, y[1]])
        gaps[context] = (torch.stack(chances).exp() * total).sum().abs().item()
        assert model.residual(played).abs().max() < 1e-5  # each under its own policy
        assert total.abs().max() > 0.1
    assert gaps[PiContext.independent] < 1e-5
    assert gaps[PiContext.concat] > 1e-2


@torch.no_grad()
def test_without_centring_numbers_are_the_heads_own() -> None:
    """f(s, z) as it is, whose mean under the policy is far from 0."""
    model, played = make_model(), games()
    plain = AdvantageModel(model.model, model.head, centred=False)
    states = hidden_states(plain.model, played.layout, Computation())
    f = dense_values(model.head, states).gather(1, played.chosen[:, None])[:, 0]
    assert torch.allclose(plain(played)[played.mask], f, atol=1e-5)
    gap = plain.residual(played).float()
    assert gap.abs().max() > 0.1
    assert torch.allclose(f - gap, model(played)[played.mask], atol=1e-4)


@pytest.mark.parametrize(("rslora", "scale"), [(True, 5.656854), (False, 1.0)])
def test_papers_D9_the_scale_of_adapters(rslora: bool, scale: float) -> None:
    """Rank 32 and α = 32: α/√r with rsLoRA, α/r without."""
    model = adapted(tiny_causal(), Lora(enabled=True, r=32, alpha=32, rslora=rslora))
    found = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    assert [round(x, 6) for x in found] == [scale]


@pytest.mark.parametrize(
    ("layers", "architecture", "names"),
    [
        ("default", "llama", {"q_proj", "v_proj"}),
        ("all", "llama", set("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())),
        ("all", "gpt2", {"c_attn", "c_proj", "c_fc"}),
    ],
)
def test_adapters_on_all_linear_layers_leave_the_head_alone(
    layers: str, architecture: str, names: set[str]
) -> None:
    lora = Lora(enabled=True, layers=LoraLayers(layers))
    model = adapted(tiny_causal(architecture), lora)
    found = {n.rpartition(".")[2] for n, m in model.named_modules() if hasattr(m, "lora_A")}
    assert found == names


def test_without_adapters_or_a_prompt_there_is_no_game() -> None:
    with pytest.raises(UserError, match="adapters"):
        AdvantageModel(tiny_causal(), AdvantageHead(32, 300))
    with pytest.raises(UserError, match="prompt"):
        games([Duel([], [1], [2])])
