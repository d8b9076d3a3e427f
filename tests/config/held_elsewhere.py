"""Keys of a run whose effect another test sees: why, and its name."""

from __future__ import annotations

from typing import Final

HELD_ELSEWHERE: Final[dict[str, tuple[str, str]]] = {
    "hardware.sharding": (
        "takes two processes and DeepSpeed, which need seconds to start",
        "test_zero2_is_deepspeed_and_halves_the_optimizer",
    ),
    "hardware.offload": (
        "takes two processes and DeepSpeed",
        "test_ten_steps_on_the_same_responses_agree",
    ),
    "hardware.whole_below": (
        "takes two processes and DeepSpeed",
        "test_zero3_halves_the_weights_too",
    ),
    "hardware.frozen": (
        "takes two processes and DeepSpeed",
        "test_frozen_models_are_in_shards_between_rollouts",
    ),
    "hardware.offload_frozen": (
        "moves weights between a device and the CPU, which are one here",
        "test_frozen_models_are_on_their_device_while_they_are_used",
    ),
    "judge.attention": (
        "it is what a finished reward model says",
        "test_its_attention_is_evidence_where_that_is_asked_for",
    ),
    "run.save_minutes": (
        "a stage is saved while it trains",
        "test_saves_are_as_many_minutes_apart_as_the_setting_says",
    ),
    "run.stop_seconds": (
        "a run is asked to stop while it trains",
        "test_a_request_of_one_process_goes_to_all_and_has_a_time",
    ),
    "sweep.objective": (
        "it is what Hydra's sweeper is told of a run",
        "test_case_16_the_objective_is_returned_and_a_failed_cell_is_nan",
    ),
    "scorer.sentence_end": (
        "only a judge's ends are read; a scorer's are left alone",
        "test_only_the_judge_says_where_sentences_end",
    ),
    "scorer.meaning": (
        "only a judge's numbers of tokens are read; a scorer's are left alone",
        "test_a_panel_asks_two_models_where_there_are_two",
    ),
    "tuning.follows": (
        "`tokencredit tune` reads it",
        "test_a_control_has_the_point_of_its_method",
    ),
    "tuning.kl": (
        "`tokencredit tune` reads it",
        "test_the_bound_of_kl_is_that_of_the_configuration",
    ),
}
