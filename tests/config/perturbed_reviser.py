"""The tests that have the keys of the reviser, which no run reads before a judge asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WHY: Final = "the stage of revisions reads it, by the backend that is chosen"
LOCAL: Final = "test_a_local_model_is_asked_in_its_template_and_kept"
TOLD: Final = "test_an_endpoint_gets_what_the_settings_say"
DOWN: Final = "test_an_endpoint_that_goes_down_keeps_what_was_paid_for"
PAID: Final = "test_an_endpoint_revises_and_the_figures_say_what_it_cost"
TESTS: Final[Mapping[str, str]] = {
    "backend": "test_the_chosen_answer_is_the_control_however_much_it_differs",
    "pairs": "test_sampled_pairs_are_those_of_dpo",
    "limit": "test_what_is_over_edited_is_dropped_and_counted",
    "held_out": "test_the_list_makes_bad_answers_good",
    "max_edit_ratio": "test_what_is_over_edited_is_dropped_and_counted",
    "words": "test_a_list_of_ones_own_is_read",
    "file": "test_revisions_of_ones_own_and_every_way_to_be_none",
    "temperature": TOLD,
    "max_tokens": TOLD,
    "reminders": TOLD,
    "context": "test_a_request_longer_than_the_context_is_counted",
    "chunk": "test_a_local_model_says_the_same_in_any_company",
    **{f"local.{key}": LOCAL for key in ("source", "name", "path", "revision", "strip_prefix")},
    "endpoint.base_url": TOLD,
    "endpoint.model": TOLD,
    "endpoint.key_variable": TOLD,
    "endpoint.requests_per_minute": "test_requests_begin_as_often_as_they_may",
    "endpoint.concurrency": DOWN,
    "endpoint.retries": DOWN,
    "endpoint.timeout": "test_a_slow_endpoint_is_given_up",
    "endpoint.price_in": PAID,
    "endpoint.price_out": PAID,
}
OF_REVISER = {f"reviser.{key}": (WHY, test) for key, test in TESTS.items()}
