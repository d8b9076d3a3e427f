"""Nothing of the lists is lost: each item has tests that carry its name, and one that breaks it.

S1 to S9 are shared numeric tests of the papers, B5 to B41 what users of other trainers stumble over.
"""

from __future__ import annotations

import re

import pytest

from named_tests import names_of_tests

BROKEN_BY = {
    "S1": "test_papers_S1_numbers_notice",
    "S2": "test_papers_S2_both_ends_of_lambda_response_by_response",
    "S3": "test_papers_S3_an_unmasked_whitening_would_see_padding",
    "S4": "test_papers_S4_the_identity_notices",
    "S5": "test_papers_S5_an_unclipped_error_would_be_noticed",
    "S6": "test_field_B12_the_identity_notices",
    "S7": "test_papers_S7_a_mask_shifted_by_one_breaks_the_sum",
    "S8": "test_papers_S8_with_a_discount_or_a_trace_it_has_not",
    "S9": "test_papers_S9_which_response_is_best_does_not_depend_on_the_scheme",
    "B5": "test_field_B5_both_adapters_train_although_peft_would_freeze_one",
    "B7": "test_field_B7_the_score_stands_on_the_last_action",
    "B8": "test_field_B8_tokens_read_one_by_one_would_miss_it",
    "B9": "test_a_pad_that_is_the_end_token_would_be_read_elsewhere",
    "B10": "test_field_B10_positions_that_start_elsewhere_would_be_seen",
    "B11": "test_field_B11_each_mutation_is_seen",
    "B12": "test_field_B12_the_identity_notices",
    "B13": "test_field_B13_multiplying_by_the_mask_would_be_noticed",
    "B14": "test_field_B14_a_reward_model_without_the_end_token_would_be_seen",
    "B15": "test_field_B15_two_training_forwards_are_equal",
    "B16": "test_field_B16_a_mean_of_means_would_be_noticed",
    "B17": "test_field_B17_minibatches_without_effect_would_be_seen",
    "B18": "test_field_B18_a_step_for_every_micro_batch_would_be_seen",
    "B19": "test_field_B19_a_norm_that_is_accepted_and_ignored_would_be_noticed",
    "B20": "test_field_B20_sampling_from_another_distribution_makes_the_mean_negative",
    "B21": "test_field_B21_unchecked_numbers_would_reach_the_weights",
    "B22": "test_field_B22_one_token_is_not_divided_by_zero",
    "B23": "test_field_B23_dividing_by_the_spread_of_tokens_would_be_noticed",
    "B24": "test_papers_S5_an_unclipped_error_would_be_noticed",
    "B25": "test_field_B25_a_shifted_mask_would_be_seen",
    "B26": "test_field_B26_a_fraction_taken_after_clipping_could_never_fire",
    "B27": "test_field_B27_a_log_that_is_not_cut_would_be_refused",
    "B28": "test_field_B28_the_census_sees_whole_logits",
    "B31": "test_field_B31_the_check_of_kernels_fires",
    "B32": "test_field_B33_a_forgotten_part_would_be_seen",
    "B33": "test_field_B33_a_missing_or_unknown_tensor_is_refused",
    "B34": "test_field_B34_a_position_that_is_not_kept_would_be_seen",
    "B35": "test_field_B33_a_forgotten_part_would_be_seen",
    "B36": "test_field_B36_a_prefix_on_every_name_would_be_seen",
    "B37": "test_field_B37_a_full_disk_keeps_the_checkpoint_before",
    "B38": "test_field_B38_shared_noise_would_depend_on_the_order",
    "B40": "test_field_B40_a_cell_that_is_not_recorded_would_be_seen",
    "B41": "test_field_B41_logp_is_that_of_the_sampling_distribution",
}
"""Each item, and the test in which what it says is broken on purpose and the check notices."""

WANTED = [
    *(f"S{n}" for n in range(1, 10)),
    *(f"B{n}" for n in [5, *range(7, 29), *range(31, 39), 40, 41]),
]


def named_after(item: str, names: list[str]) -> list[str]:
    """The tests whose name carries the item, alone or with others."""
    kind = "papers" if item.startswith("S") else "field"
    return [name for name in names if re.search(rf"_{kind}_(\w+_)?{item}(_|$)", name)]


@pytest.mark.parametrize("item", WANTED)
def test_every_item_has_a_test_and_a_mutation(item: str) -> None:
    names = names_of_tests()
    assert named_after(item, list(names)), f"no test is named after {item}"
    assert BROKEN_BY[item] in names, f"{item}: {BROKEN_BY[item]} is gone"


def test_the_list_is_whole() -> None:
    assert list(BROKEN_BY) == WANTED and len(WANTED) == 9 + 33


def test_a_lost_item_would_be_noticed() -> None:
    names = ["test_field_B32_B37_killed", "test_papers_S6_field_B20_mean", "test_field_B1_sparse"]
    found = {item for item in WANTED if named_after(item, names)}
    assert found == {"B32", "B37", "S6", "B20"}
    assert not named_after("B3", ["test_field_B32_a"]) and not named_after("B14", names)
