"""The grids of methods: their shape, what a comparison asks of them, and how a choice is read."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from tokencredit.composing.chosen import chosen, composed
from tokencredit.errors import UserError
from tokencredit.papers.grids import points
from tokencredit.papers.pilots import Terms, Trial
from tokencredit.settings import MOST_POINTS, Tuning
from tokencredit.store.files import write_text
from tokencredit.sweeps.tuning import Comparison, check_places, conf_of, read_comparison
from tokencredit.user_code.plugins import conf_dir

from .make_snapshots import composed as snapshot
from .make_snapshots import load, loaded_files

RATE, KL = "algorithm.optimizer.learning_rate", "algorithm.kl.coef"
ABC = ["experiment=abc/positive_generation", "scale=cpu"]
TUNED = {
    "abc/positive_generation": ["abc", "abc_d", "abc_d2", "uniform", "sparse"],
    "rto/win_rates": ["ppo", "dppo", "dppo_same_kl", "rto"],
    "dae/imdb": ["sparse_pairs", "abc_pairs", "dae", "dae_own"],
    "tlcr/main": ["ppo_seq", "remax", "ppo_synthetic", "tlcr_fixed", "tlcr", "word_list"],
}


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({RATE: [1e-4, 2e-4], KL: [0.1, 0.2], "algorithm.clip": [0.1, 0.2]}, "more than 2 keys"),
        ({RATE: [1e-4, 2e-4, 4e-4, 8e-4], KL: [0.1, 0.2]}, "has 8 points, more than the 6"),
        ({RATE: [1e-4]}, "at least two numbers > 0 that rise"),
        ({RATE: []}, "at least two numbers > 0 that rise"),
        ({RATE: [2e-4, 1e-4]}, "that rise"),
        ({RATE: [1e-4, 1e-4]}, "that rise"),
        ({RATE: [0.0, 1e-4]}, "numbers > 0"),
        ({RATE: [1e-4, float("nan")]}, "that rise"),
        ({RATE: [1e-4, float("inf")]}, "that rise"),
        ({"sft.learning_rate": [1e-4, 2e-4]}, "must be a key of algorithm or reward_scheme"),
        ({"learning_rate": [1e-4, 2e-4]}, "must be a key of algorithm or reward_scheme"),
    ],
)
def test_a_grid_that_cannot_be_searched_is_refused(grid: dict[str, list[float]], said: str) -> None:
    with pytest.raises(UserError, match=r"^tuning\.grid") as caught:
        Tuning(grid=grid)
    assert said in str(caught.value)


def test_a_method_has_a_grid_or_follows_another() -> None:
    with pytest.raises(UserError, match=r"tuning\.follows = 'abc': cannot be set beside"):
        Tuning(grid={RATE: [1e-4, 2e-4]}, follows="abc")
    with pytest.raises(UserError, match=r"tuning\.kl = 0"):
        Tuning(kl=0)


def test_a_grid_of_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    text = f"# @package _global_\ntuning: {{grid: {{{RATE}: [0.1, 0.1]}}}}\n"
    write_text(tmp_path / "method/mine.yaml", text)
    with pytest.raises(UserError) as caught:
        composed(["method=mine", "scale=cpu"], [tmp_path])
    assert str(caught.value).startswith(f"tuning.grid.{RATE} = [0.1, 0.1]: must be at least two")


@cache
def comparison(experiment: str) -> Comparison:
    """The comparison of an experiment of the package at the scale of two cores."""
    return read_comparison([f"experiment={experiment}", "scale=cpu", "experiments_dir=kept"])


@pytest.mark.parametrize("experiment", TUNED)
def test_methods_of_a_comparison_have_equal_budgets(experiment: str) -> None:
    found = comparison(experiment)
    assert list(found.terms.grids) == TUNED[experiment]
    assert {len(points(grid)) for grid in found.terms.grids.values()} == {MOST_POINTS}
    assert set(found.terms.follows.values()) <= {"abc"}
    assert found.rows == Path("kept") / experiment / "tuning" / "cpu.csv"


def test_sft_and_dpo_are_not_tuned() -> None:
    found = comparison("rto/win_rates")
    assert list(found.untuned) == ["sft", "dpo"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["scale=cpu"], "experiment = None: name the experiment"),
        (["experiment=abc/controls", "scale=cpu"], "sweeps no methods at scale=cpu"),
        (["experiment=rto/win_rates", "scale=cpu", "seed=1"], "seed = '1': is set by"),
        (["experiment=rto/win_rates", "scale=cpu", "method=ppo"], "method = 'ppo': is set by"),
        ([*ABC, f"{RATE}=1"], f"{RATE} = '1': is in the grid"),
        (
            ["experiment=rto/win_rates", "scale=cpu", "oracle.enabled=false"],
            "oracle.enabled = False: method ppo cannot be tuned",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_tuned_is_refused(typed: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        read_comparison(typed)
    assert said in str(caught.value)


def test_methods_with_other_numbers_of_steps_are_refused(tmp_path: Path) -> None:
    sweep = 'hydra: {sweeper: {params: {method: "short,sparse"}}}'
    write_text(tmp_path / "experiment/mine.yaml", f"# @package _global_\n{sweep}\n")
    short = f"# @package _global_\nsteps: 7\ntuning: {{grid: {{{RATE}: [1e-4, 2e-4]}}}}\n"
    write_text(tmp_path / "method/short.yaml", short)
    with pytest.raises(UserError, match=r"steps = \[7, 100\]: must be the same for all methods"):
        read_comparison(["experiment=mine", "scale=cpu", "experiments_dir=kept"], [tmp_path])


def test_a_pilot_run_is_a_whole_run_with_fewer_steps() -> None:
    """What the algorithm takes from the number of steps, the KL horizon, is the whole run's."""
    found = comparison("abc/positive_generation")
    point = points(found.terms.grids["sparse"])[0]
    first, whole = (
        found.config(Trial("sparse", point, number, 100, steps))
        for number, steps in ((1, found.terms.first_steps), (2, found.terms.steps))
    )
    assert (first.steps, whole.steps) == (40, 101)
    assert first.algorithm == whole.algorithm
    assert first.policy_algorithm.optimizer.learning_rate == 1e-4
    assert (first.seed, first.stage_seed, first.experiments_dir) == (100, 100, None)
    assert (first.run.experiment, first.run.scheme) == ("abc/positive_generation", "sparse")
    assert first.run.job_type == "pilot"


def test_the_bound_of_kl_is_that_of_the_configuration() -> None:
    assert comparison("abc/positive_generation").terms.kl == 15
    assert read_comparison([*ABC, "experiments_dir=kept", "tuning.kl=7"]).terms.kl == 7


def test_a_tuning_that_can_keep_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Comparison("x", "cpu", [], [tmp_path], [], Terms(grids={}, steps=1), tmp_path)
    check_places(named)
    with pytest.raises(UserError, match="experiments_dir = None: pilot runs are kept beside"):
        check_places(replace(named, keeps=False))
    with pytest.raises(UserError, match="--config-dir: the choice is a file that the experiment"):
        monkeypatch.chdir(tmp_path)
        check_places(replace(named, folders=[]))


def test_a_choice_that_comes_with_the_package_is_not_made_again_elsewhere(tmp_path: Path) -> None:
    """Its file would have the name of the shipped one, and be refused by the next command."""
    named = replace(comparison("abc/positive_generation"), folders=[tmp_path], keeps=True)
    with pytest.raises(UserError, match=r"abc.yaml has chosen already, and no file of yours may"):
        check_places(named)
    check_places(replace(named, experiment="mine"))
    check_places(replace(named, folders=[conf_dir()]))  # the clone's own: the same file


def test_choices_go_to_the_first_folder_that_is_named(tmp_path: Path) -> None:
    folders = [tmp_path, tmp_path / "other"]
    named = Comparison("x", "cpu", [], folders, [], Terms(grids={}, steps=1), tmp_path)
    assert conf_of(named) == tmp_path


@pytest.mark.parametrize("scale", ["cpu", "paper"])
def test_a_choice_is_read_last_of_the_files_of_an_experiment(scale: str, tmp_path: Path) -> None:
    """It beats the method, the experiment, and its size; a key that is typed beats it."""
    place = tmp_path / f"tuned/rto/win_rates_{scale}/uniform.yaml"  # none of that experiment's own
    write_text(place, "# @package _global_\nalgorithm: {optimizer: {learning_rate: 0.125}}\n")
    chosen_here = ["experiment=rto/win_rates", f"scale={scale}", "method=uniform"]
    made = chosen(chosen_here, [tmp_path]).config
    assert made.policy_algorithm.optimizer.learning_rate == 0.125
    typed = chosen([*chosen_here, f"{RATE}=0.5"], [tmp_path]).config
    assert typed.policy_algorithm.optimizer.learning_rate == 0.5
    other = chosen([*chosen_here[:2], "method=dppo"], [tmp_path]).config
    assert other.policy_algorithm.optimizer.learning_rate != 0.125


def test_a_method_is_read_before_the_experiment() -> None:
    files = loaded_files("experiment=rto/win_rates", "scale=cpu", "method=dppo")
    assert files.index("method/dppo") < files.index("experiment/rto/win_rates")
    _, choices = snapshot("experiment=rto/win_rates", "scale=cpu")
    assert choices["method"] == "rto"


def test_a_run_is_called_by_its_method_or_by_the_scheme_that_was_typed() -> None:
    assert load("method=dppo", "scale=cpu").run.scheme == "dppo"
    mine = ["experiment=abc/positive_generation", "scale=cpu"]
    assert chosen(mine).config.run.scheme == "abc"
    assert chosen([*mine, "reward_scheme=sparse"]).config.run.scheme == "sparse"
    assert chosen(["reward_scheme=sparse"]).config.run.scheme == "sparse"
    with pytest.raises(UserError, match="reward_scheme = 'sparse': method=abc has a scheme"):
        chosen([*mine, "method=abc", "reward_scheme=sparse"])


def test_papers_the_paper_scale_trains_as_before() -> None:
    """Its sweep names methods now, which have the scheme and the algorithm of the default."""
    mine = load("experiment=abc/positive_generation", "scale=paper", "method=sparse")
    plain = load("experiment=abc/positive_generation_smollm2", "reward_scheme=sparse")
    assert mine.policy_algorithm.kl == plain.policy_algorithm.kl
    assert (mine.policy_algorithm.batch_size, mine.policy_algorithm.minibatches) == (16, 16)
