"""Settings of sampling: their ranges, and the warning where two distributions differ."""

from __future__ import annotations

from typing import Any

import pytest

from tokencredit.errors import UserError
from tokencredit.models.decoding.sampling import LogprobMask, Sampling

BAD: list[tuple[dict[str, Any], str]] = [
    ({"top_k": -1}, "rollout.top_k"),
    ({"top_p": 0.0}, "rollout.top_p"),
    ({"top_p": 1.01}, "rollout.top_p"),
    ({"top_p": float("nan")}, "rollout.top_p"),
    ({"stop": [""]}, "rollout.stop"),
    ({"stop": ["\n", ""]}, "rollout.stop"),
    ({"nucleus_memory_mb": 0}, "rollout.nucleus_memory_mb"),
    ({"temperature": 0.0}, "rollout.temperature"),
    ({"eos_masked_before": -1}, "rollout.eos_masked_before"),
    ({"min_new_tokens": 0}, "rollout.min_new_tokens"),
    ({"max_new_tokens": 8}, "rollout.max_new_tokens"),
    ({"chunk": 0}, "rollout.chunk"),
]


@pytest.mark.parametrize(("numbers", "key"), BAD)
def test_settings_out_of_range_are_refused(numbers: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=f"{key} = "):
        Sampling(**numbers)


def test_the_ends_of_the_ranges_are_accepted() -> None:
    Sampling(top_k=1, top_p=1e-6, nucleus_memory_mb=1, stop=["\n"], eos_masked_before=0)


def test_stop_strings_of_two_settings_are_their_own() -> None:
    Sampling().stop.append("x")
    assert Sampling().stop == []


FREE: dict[str, Any] = {"eos_masked_before": 0}
DEPARTURES: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.7}, "rollout.temperature = 0.7"),
    ({"temperature": 1.2}, "rollout.temperature = 1.2"),
    ({"top_k": 50}, "rollout.top_k = 50"),
    ({"top_p": 0.9}, "rollout.top_p = 0.9"),
    ({"eos_masked_before": None}, "before token 8 (rollout.eos_masked_before)"),
    ({"eos_masked_before": 3}, "before token 3 (rollout.eos_masked_before)"),
]


@pytest.mark.parametrize(("numbers", "name"), DEPARTURES)
def test_field_B20_a_distribution_that_differs_is_a_warning(
    numbers: dict[str, Any], name: str
) -> None:
    text = Sampling(**(FREE | numbers), logprob_mask=LogprobMask.full).mismatch()
    assert text is not None and name in text
    assert [other for _, other in DEPARTURES if other in text] == [name]
    assert "bonus" in text and "rollout.logprob_mask=sampling" in text


@pytest.mark.parametrize(("numbers", "name"), DEPARTURES)
def test_field_B20_log_probabilities_of_the_sampled_distribution_are_no_mismatch(
    numbers: dict[str, Any], name: str
) -> None:
    assert Sampling(**(FREE | numbers)).mismatch() is None


def test_field_B20_the_models_own_distribution_is_no_mismatch() -> None:
    """Lengths, stop strings, and chunks end responses; they change no distribution."""
    own = Sampling(**FREE, logprob_mask=LogprobMask.full, stop=["\n"], chunk=3, max_new_tokens=9)
    assert own.mismatch() is None


def test_all_departures_are_named_at_once() -> None:
    text = Sampling(temperature=2.0, top_p=0.5, logprob_mask=LogprobMask.full).mismatch()
    assert text is not None
    assert all(key in text for key in ("temperature = 2.0", "top_p = 0.5", "eos_masked_before"))


@pytest.mark.parametrize(
    ("numbers", "restricts"),
    [({}, False), ({"top_k": 1}, True), ({"top_p": 0.99}, True), ({"temperature": 2.0}, False)],
)
def test_ids_are_kept_only_where_some_may_be_left_out(
    numbers: dict[str, Any], *, restricts: bool
) -> None:
    assert Sampling(**numbers).restricts is Sampling(**numbers).keeps is restricts
    assert not Sampling(**numbers, logprob_mask=LogprobMask.full).keeps


def test_the_bound_on_kept_ids_is_in_bytes() -> None:
    sampling = Sampling(top_p=0.9, nucleus_memory_mb=2)
    sampling.check_kept(2**19)
    with pytest.raises(UserError, match=r"top_p = 0\.9 .* need 2097156 bytes.* raise it to 3"):
        sampling.check_kept(2**19 + 1)
