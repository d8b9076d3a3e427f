"""Top-k and top-p: the kept sets by hand, and the record of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from builders import ARCHITECTURES, EOS_ID, PAD_ID, VOCABULARY, make_prompts, tiny_causal
from tokencredit.errors import UserError
from tokencredit.models.decoding import nucleus
from tokencredit.models.decoding.generation import Generated, generate
from tokencredit.models.decoding.nucleus import KeptIds, likeliest
from tokencredit.models.decoding.sampling import LogprobMask, Sampling
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.rollout import Prompts
from tokencredit.streams import fold, gumbels, stream_key

IDS = SpecialIds(eos=EOS_ID, pad=PAD_ID)
CPU = torch.device("cpu")
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def kept(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> list[int]:
    return likeliest(logits, top_k, top_p)[0].nonzero().squeeze(1).tolist()


FIVE = logits_of(0.05, 0.4, 0.1, 0.25, 0.2)
"""In order of probability: ids 1, 3, 4, 2, 0, with masses 0.4, 0.65, 0.85, 0.95, 1."""


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.01, [1]),  # at least one, though its mass is far above p
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.64, [1, 3]),
        (0.66, [1, 3, 4]),
        (0.84, [1, 3, 4]),
        (0.86, [1, 2, 3, 4]),
        (0.94, [1, 2, 3, 4]),
        (0.96, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_top_p_keeps_the_smallest_set_of_that_mass(top_p: float, expected: list[int]) -> None:
    assert kept(FIVE, top_p=top_p) == expected


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [(1, [1]), (2, [1, 3]), (4, [1, 2, 3, 4]), (5, [0, 1, 2, 3, 4]), (99, [0, 1, 2, 3, 4])],
)
def test_top_k_keeps_that_many(top_k: int, expected: list[int]) -> None:
    assert kept(FIVE, top_k=top_k) == expected


def test_top_p_is_a_share_of_what_top_k_left() -> None:
    """Of ids 1, 3, 4 the masses are 0.4/0.85 = 0.47, 0.76, 1."""
    assert kept(FIVE, 3, 0.46) == [1]
    assert kept(FIVE, 3, 0.48) == [1, 3]
    assert kept(FIVE, 3, 0.75) == [1, 3]
    assert kept(FIVE, 3, 0.77) == [1, 3, 4]


def test_ties_go_to_the_smaller_ids() -> None:
    assert kept(torch.zeros(1, 6), top_k=2) == [0, 1]
    assert kept(torch.zeros(1, 6), top_p=0.49) == [0, 1, 2]
    assert kept(torch.tensor([[0.0, 1.0, 0.0, 2.0, 0.0]]), top_k=3) == [0, 1, 3]
    both = likeliest(torch.tensor([[0.0, 0.0, 0.0], [3.0, 2.0, 1.0]]), top_k=1)
    assert both.tolist() == [[True, False, False], [True, False, False]]


def test_the_impossible_is_never_kept() -> None:
    some = torch.tensor([[-torch.inf, 1.0, -torch.inf, 1.0]])
    assert kept(some, top_k=3) == [1, 3]
    assert kept(some, top_p=0.999999) == [1, 3]
    assert kept(some, 4, 0.999999) == [1, 3]


@given(
    st.integers(0, 1000),
    st.integers(1, 60),
    st.integers(0, 70),
    st.floats(0.01, 1.0),
    st.sampled_from([1, 3, 64]),
)
def test_kept_sets_equal_a_sorted_scan(
    seed: int, width: int, top_k: int, top_p: float, first: int
) -> None:
    """Rounded logits, so that many tie; however few are looked at first."""
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(1, width, generator=generator)).round()
    order = sorted(range(width), key=lambda i: (-logits[0, i].item(), i))[: top_k or width]
    shares = logits[0, order].double().softmax(0).tolist()
    if abs(top_p - 1) > 1e-9 and any(
        abs(sum(shares[: n + 1]) - top_p) < 1e-6 for n in range(len(order))
    ):
        return  # which side of the boundary it falls on is rounding's choice
    count = 1
    while sum(shares[:count]) < top_p and count < len(order):
        count += 1
    if top_p == 1:
        count = len(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nucleus, "FIRST", first)
        assert kept(logits, top_k, top_p) == sorted(order[:count])


def test_each_token_finds_its_ids_again() -> None:
    record = KeptIds((3, 2), Sampling(top_k=2), CPU)
    possible = torch.tensor([[True] * 4] * 3)
    first = torch.tensor([[True, False, True, False], [True] * 4, [False, False, False, True]])
    record.add(torch.tensor([2, 0, 1]), 0, first, possible)
    some = torch.tensor([[False, True, True, False]])
    record.add(torch.tensor([1]), 1, torch.tensor([[False, True, False, False]]), some)
    found = record.finish(2)
    assert found.ids.dtype == torch.int32 and found.bytes == 4 * 4 + 6 * 8 + 6 * 4
    ids = [
        [found.ids[start : start + count].tolist() for start, count in zip(*columns, strict=True)]
        for columns in zip(found.starts.tolist(), found.counts.tolist(), strict=True)
    ]
    assert ids == [[[], []], [[3], [1]], [[0, 2], []]]  # row 0: nothing was left out


def test_all_that_was_possible_is_no_restriction() -> None:
    """The end token was masked, not left out."""
    record = KeptIds((1, 1), Sampling(top_k=2), CPU)
    same = torch.tensor([[False, True, True]])
    record.add(torch.tensor([0]), 0, same, same)
    assert record.finish(1).counts.tolist() == [[0]]


def said(architecture: str, sampling: Sampling, prompts: Prompts | None = None) -> Generated:
    prompts = make_prompts([4, 2, 5], max_new=6, min_new=2) if prompts is None else prompts
    return generate(tiny_causal(architecture), prompts, sampling, IDS, ("nucleus",))


SOME = [
    Sampling(top_k=5),
    Sampling(top_p=0.5),
    Sampling(top_k=40, top_p=0.8, temperature=0.7),
    Sampling(top_p=0.5, eos_masked_before=0, temperature=1.3),
]


@architectures
@pytest.mark.parametrize("sampling", SOME)
@torch.no_grad()
def test_tokens_are_the_argmax_over_the_kept_ids(architecture: str, sampling: Sampling) -> None:
    """Logits of the whole sequence anew; temperature and the masks come before top-k and top-p."""
    model, prompts = tiny_causal(architecture), make_prompts([4, 2, 5], max_new=6, min_new=2)
    found = generate(model, prompts, sampling, IDS, ("nucleus",))
    assert found.kept is not None
    for row in range(3):
        ids = prompts.ids[row][prompts.mask[row]].tolist()
        key = torch.tensor([stream_key("nucleus", int(prompts.rows[row]), 0)])
        for t, token in enumerate(found.ids[row, : found.lengths[row]].tolist()):
            before = torch.tensor([ids + found.ids[row, :t].tolist()])
            logits = model(input_ids=before).logits[0, -1:] / sampling.temperature
            logits[0, PAD_ID] = -torch.inf
            if t < 2:
                logits[0, EOS_ID] = -torch.inf
            expected = kept(logits, sampling.top_k, sampling.top_p)
            start, count = int(found.kept.starts[row, t]), int(found.kept.counts[row, t])
            assert found.kept.ids[start : start + count].tolist() == expected
            assert PAD_ID not in expected and (t >= 2 or EOS_ID not in expected)
            logits[0, [n for n in range(VOCABULARY) if n not in expected]] = -torch.inf
            assert int((logits + gumbels(fold(key, t), VOCABULARY)).argmax()) == token


def test_kept_ids_are_stored_only_where_logp_needs_them() -> None:
    assert said("gpt2", Sampling()).kept is None
    restricted = said("gpt2", Sampling(top_k=5, logprob_mask=LogprobMask.full))
    assert restricted.kept is None
    stored = said("gpt2", Sampling(top_k=5))
    assert torch.equal(restricted.ids, stored.ids)
    assert stored.kept is not None and (stored.kept.counts[stored.mask] == 5).all()
    assert not stored.kept.counts[~stored.mask].any()
    everything = said("gpt2", Sampling(top_k=VOCABULARY)).kept
    assert everything is not None and not everything.counts.any() and len(everything.ids) == 0


def test_kept_ids_of_chunks_and_of_rows_that_end_early() -> None:
    prompts = make_prompts([4, 2, 5, 3, 6], max_new=[1, 6, 2, 5, 3], min_new=0)
    whole = said("llama", Sampling(top_p=0.6), prompts)
    parts = said("llama", Sampling(top_p=0.6, chunk=2), prompts)
    assert torch.equal(whole.ids, parts.ids) and len(whole) == 5
    assert whole.kept is not None and parts.kept is not None
    assert torch.equal(whole.kept.counts, parts.kept.counts)
    assert not torch.equal(whole.kept.starts, parts.kept.starts)
    for row, length in enumerate(whole.lengths.tolist()):
        for t in range(length):
            one, other = (
                found.ids[int(found.starts[row, t]) :][: int(found.counts[row, t])].tolist()
                for found in (whole.kept, parts.kept)
            )
            assert one == other != []
            assert int(whole.ids[row, t]) in one


def test_more_kept_ids_than_allowed_are_refused_with_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampling = Sampling(top_p=0.99, nucleus_memory_mb=1)
    found = said("gpt2", sampling).kept
    assert found is not None
    need = 4 * len(found.ids)
    monkeypatch.setattr(Sampling, "room", property(lambda _: need))
    assert said("gpt2", sampling).kept is not None
    monkeypatch.setattr(Sampling, "room", property(lambda _: need - 1))
    keys = ("rollout.nucleus_memory_mb", "rollout.top_p", "rollout.top_k", f"{need} bytes")
    for chunk in (64, 1):
        with pytest.raises(UserError) as error:
            said("gpt2", Sampling(top_p=0.99, nucleus_memory_mb=1, chunk=chunk))
        assert all(key in str(error.value) for key in keys)


def test_ids_over_the_bound_are_counted_but_not_held() -> None:
    record = KeptIds((1, 40), Sampling(top_p=0.5, nucleus_memory_mb=1), CPU)
    wide = torch.ones(1, 10_000, dtype=torch.bool)
    left = wide.clone()
    left[0, 0] = False
    for t in range(40):
        record.add(torch.tensor([0]), t, left, wide)
        assert sum(map(len, record.ids)) <= 2**18
    assert record.ids == []
    with pytest.raises(UserError, match=f"need {4 * 40 * 9_999} bytes, more than 1048576"):
        record.finish(40)
