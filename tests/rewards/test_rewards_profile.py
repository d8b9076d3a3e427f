"""What a judge gives to each tenth of a response: by hand, and written into YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from builders import make_judgement, make_rollout, mask_of
from tokencredit.cli import app
from tokencredit.commands.profile import Profile, mean_by_tenth, measure, save
from tokencredit.errors import UserError
from tokencredit.rewards.controls import Position
from tokencredit.rewards.redistribute import shares

TEN = Profile([1.0, *[0.5] * 8, 5.0], "2 responses")


def test_by_hand() -> None:
    """n = 10: n α is ten times the share; n = 20: two tokens a tenth; the mean of both responses."""
    evidence = torch.zeros(2, 20)
    evidence[0, :10] = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 1, 1, 11])  # of 20
    evidence[1, 0:2] = torch.tensor([3.0, 1.0])  # of 8: densities 7.5, 2.5, mean 5
    evidence[1, 18:20] = torch.tensor([0.0, 4.0])  # 0, 10, mean 5
    found = mean_by_tenth(evidence, mask_of([10, 20]))
    assert found == pytest.approx([2.75, *[0.25] * 8, 5.25], abs=1e-4)


def test_scale_padding_and_poison_change_nothing() -> None:
    rollout = make_rollout([12, 25])
    evidence = make_judgement(rollout).evidence
    plain = mean_by_tenth(evidence, rollout.response_mask)
    wide = torch.full((2, 40), torch.nan)
    wide[:, :25] = torch.where(rollout.response_mask, 7 * evidence, torch.nan)
    assert mean_by_tenth(wide, mask_of([12, 25], 40)) == plain
    assert sum(plain) == pytest.approx(10, abs=1e-3)


def test_the_profile_of_a_profile_is_itself() -> None:
    """Position pays by it; measured on what it gives, it comes out again."""
    rollout = make_rollout([10, 30, 50])
    scheme = Position(beta=1.0, profile=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    given = scheme.spread_by(rollout, make_judgement(rollout))
    found = mean_by_tenth(given, rollout.response_mask)
    assert found == pytest.approx([k / 5.5 for k in range(1, 11)], abs=1e-3)
    assert torch.allclose(shares(given, rollout.response_mask).sum(dim=1), torch.ones(3))


def test_a_tenth_without_a_token_is_refused() -> None:
    with pytest.raises(UserError, match=r"tenth 1 of 10: they are too short; raise rollout"):
        mean_by_tenth(torch.ones(1, 4), mask_of([4]))


def test_written_into_an_option_and_into_an_experiment(tmp_path: Path) -> None:
    option, experiment = tmp_path / "position_mine.yaml", tmp_path / "mine.yaml"
    save(TEN, option)
    assert yaml.safe_load(option.read_text()) == {
        "defaults": ["Position", "_self_"],
        "profile": TEN.weights,
    }
    experiment.write_text("# @package _global_\n# Mine.\nsteps: 7    # few\n")
    save(Profile([1.0] * 10, "before"), experiment)
    save(TEN, experiment)
    text = experiment.read_text()
    assert yaml.safe_load(text) == {"steps": 7, "reward_scheme": {"profile": TEN.weights}}
    assert "# Mine.\nsteps: 7    # few\n" in text and "before" not in text
    assert text.count("profile") == 1 and "# 2 responses" in text


def test_a_file_that_sets_it_otherwise_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# @package _global_\nreward_scheme:\n  beta: 0.5\n")
    with pytest.raises(UserError, match=r"mine\.yaml: sets reward_scheme in a form .*profile: \[1"):
        save(TEN, path)
    assert path.read_text().endswith("beta: 0.5\n")


def test_shown_as_bars_and_as_an_override() -> None:
    lines = TEN.text().splitlines()
    assert lines[1].endswith("█" * 20) and lines[10].endswith("█" * 100)
    assert lines[-1] == "reward_scheme.profile=" + "[1.0000,0.5000," + "0.5000," * 7 + "5.0000]"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no run folder \(it has no config\.yaml\)"):
        measure(tmp_path, 8, 0)


def test_a_plugin_is_imported_before_the_run_is_read(tmp_path: Path) -> None:
    """A run that names a plug-in is refused with a command that has this flag."""
    missing = tmp_path / "gone.py"
    found = CliRunner().invoke(app, ["profile", str(tmp_path), "--plugin", str(missing)])
    assert isinstance(found.exception, UserError)
    assert f"--plugin {missing}" in str(found.exception)
