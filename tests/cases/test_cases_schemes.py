"""Schemes of one's own: every broken promise is named, before training and in its first steps."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from builders import make_judgement, make_rollout
from schemes import scheme_of
from tokencredit import config as configuration
from tokencredit.cli import app
from tokencredit.commands.check_scheme import check_scheme, examine
from tokencredit.config import COMPONENTS, load_plugins, register_component
from tokencredit.errors import UserError
from tokencredit.ops import keep
from tokencredit.rewards.promises import REMEDIES, vanishing
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rl.payer import FIRST, Payer, warn_of_nothing
from tokencredit.rollout import Judgement, Rollout, Targets
from tokencredit.settings import Run
from tokencredit.store.files import read_json
from tokencredit.store.run_folder import RunFolder, State
from tokencredit.train import more_folders
from tokencredit.user_code.plugins import check_options

LENGTHS = [4, 1, 3, 6]
BUILT_IN = len(COMPONENTS["reward_scheme"])
"""Schemes before any plug-in."""


@dataclass(slots=True, kw_only=True)
class Own(RewardScheme):
    """A scheme whose formula a test chooses."""

    sum_preserving: ClassVar[bool] = True
    formula: Any = None

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Tensor:
        """What the formula makes of them."""
        made: Tensor = self.formula(rollout, judgement)
        return made


def right(rollout: Rollout, judgement: Judgement) -> Tensor:
    return Sparse().token_rewards(rollout, judgement)


def undeclared(rollout: Rollout, judgement: Judgement) -> Tensor:
    return right(rollout, judgement) + 0 * keep(judgement.evidence, rollout.response_mask)


def in_place(rollout: Rollout, judgement: Judgement) -> Tensor:
    judgement.scores.mul_(2)
    return right(rollout, judgement)


BROKEN: dict[str, tuple[Any, str]] = {
    "shape": (lambda r, j: right(r, j)[:, :-1], "returns float32 of shape (B, T)"),
    "kind": (lambda r, j: right(r, j).long(), "returns float32 of shape (B, T)"),
    "none": (lambda *_: None, "returns float32 of shape (B, T)"),
    "behind the end": (lambda r, j: right(r, j) + ~r.response_mask, "pays nothing where masked"),
    "nan": (lambda r, j: right(r, j) * torch.nan, "pays finite rewards, for one token too"),
    "sum": (lambda r, j: 2 * right(r, j), "sums to the score"),
    "gradient": (lambda r, j: right(r, j).requires_grad_(), "needs no gradient"),
    "undeclared": (undeclared, "reads evidence of tokens only if it declares it"),
}
ONLY_CHECKED: dict[str, tuple[Any, str]] = {
    "double": (lambda r, j: right(r, j).double(), "returns float32 of shape (B, T)"),
    "padding": (lambda r, j: right(r, j) * r.response_mask.shape[1], "does not depend on padding"),
    "poison": (
        lambda r, j: right(r, j) + 0 * (r.logp * r.response_mask).sum(),
        "ignores NaN in masked slots",
    ),
    "order": (
        lambda r, j: right(r, j) * torch.arange(len(r))[:, None],
        "follows a permutation of the batch",
    ),
    "in place": (in_place, "leaves its inputs untouched"),
}


def payer(scheme: RewardScheme) -> Payer:
    config: Any = SimpleNamespace(reward_scheme=scheme, run=Run(scheme="mine"))
    return Payer(config)


def batch() -> tuple[Rollout, Judgement]:
    rollout = make_rollout(LENGTHS, width=8)
    return rollout, make_judgement(rollout)


@pytest.mark.usefixtures("any_types")
@pytest.mark.parametrize("kind", BROKEN | ONLY_CHECKED)
def test_schemes_check_names_the_promise_and_its_remedy(kind: str) -> None:
    formula, promise = (BROKEN | ONLY_CHECKED)[kind]
    found = examine(Own(formula=formula))
    assert REMEDIES[promise].partition(",")[0] in found[promise]
    with pytest.raises(UserError, match=r"^Own: broken promises \(\d+ of \d+\):\n  "):
        check_scheme(Own(formula=formula))


def test_schemes_check_lists_every_broken_promise() -> None:
    def formula(rollout: Rollout, judgement: Judgement) -> Tensor:
        return (undeclared(rollout, judgement) + 1).requires_grad_()

    with pytest.raises(UserError) as caught:
        check_scheme(Own(formula=formula))
    for promise in (
        "pays nothing where masked",
        "reads evidence of tokens only if it declares it",
        "needs no gradient",
        "sums to the score",
    ):
        assert f"\n  {promise}: " in str(caught.value)
    assert len(check_scheme(Own(formula=right))) == len(REMEDIES) == 11


@pytest.mark.parametrize("raised", [SystemExit, ValueError("no"), KeyboardInterrupt])
def test_schemes_check_and_training_name_a_scheme_that_raises(raised: Any) -> None:
    def formula(rollout: Rollout, judgement: Judgement) -> Tensor:
        raise raised

    scheme = Own(formula=formula)
    with pytest.raises(UserError, match=r"raised .*test_cases_schemes\.py, line"):
        check_scheme(scheme)
    assert len(list(filter(None, examine(scheme).values()))) == 1
    with pytest.raises(UserError, match=r"reward_scheme = mine \(Own of .*step 4: raised"):
        payer(scheme).pay(*batch(), 4)


@pytest.mark.usefixtures("any_types")
@pytest.mark.parametrize("kind", BROKEN)
def test_schemes_training_holds_them_to_their_promises(kind: str) -> None:
    formula, promise = BROKEN[kind]
    with pytest.raises(UserError) as caught:
        payer(Own(formula=formula)).pay(*batch(), 0)
    text = str(caught.value)
    assert text.startswith(f"reward_scheme = mine (Own of {__file__}): step 0: ")
    assert REMEDIES[promise].partition(",")[0] in text and "learning_rate" not in text
    assert f"`tokencredit check-scheme Own --plugin {__file__}`" in text


def test_schemes_training_looks_for_shape_and_numbers_only_later() -> None:
    rollout, judgement = batch()
    for kind in ("sum", "behind the end", "gradient"):
        payer(Own(formula=BROKEN[kind][0])).pay(rollout, judgement, FIRST)
    for kind in ("shape", "nan", "undeclared"):
        with pytest.raises(UserError, match="reward_scheme = mine"):
            payer(Own(formula=BROKEN[kind][0])).pay(rollout, judgement, FIRST)
    assert torch.equal(
        payer(Own(formula=right)).pay(rollout, judgement, 0), right(rollout, judgement)
    )


def test_schemes_with_undeclared_evidence_keep_all_else_of_a_judgement() -> None:
    def formula(rollout: Rollout, judgement: Judgement) -> Tensor:
        order = torch.arange(len(rollout)).flip(0)
        part = judgement[order].to("cpu")[order]
        assert len(part) == len(rollout) and part.scores is not None
        return right(rollout, part)

    assert check_scheme(replace(Own(formula=right), formula=formula))
    payer(Own(formula=formula)).pay(*(batch()), 0)


@pytest.mark.parametrize("scheme", COMPONENTS["reward_scheme"])
def test_schemes_of_our_own_keep_their_promises_in_training(scheme: type[RewardScheme]) -> None:
    rollout, judgement = batch()
    evidence = (
        judgement.evidence.abs() if scheme.evidence is Evidence.nonnegative else judgement.evidence
    )
    judgement = replace(judgement, evidence=1e3 * evidence, scores=1e3 * judgement.scores)
    ends = rollout.response_mask & (torch.arange(8) % 2 == 0)
    judgement = replace(judgement, ends=ends)
    made = payer(scheme_of(scheme))
    assert not made.held.users
    assert made.pay(rollout, judgement, 0).shape == rollout.response_mask.shape


def test_schemes_that_pay_nothing_are_said_once_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout, _ = batch()
    mask = rollout.response_mask
    nothing, something = torch.zeros(mask.shape), keep(torch.ones(mask.shape), mask)
    assert vanishing(something, something, mask) == []
    assert len(vanishing(nothing, something, mask)) == 1
    poisoned = torch.where(mask, 0.0, 5.0)
    assert len(vanishing(poisoned, poisoned, mask)) == 2
    flat = Targets(advantages=nothing, returns=nothing)
    live = Targets(advantages=something, returns=something)
    RunFolder(tmp_path).write(State.running, key="k")
    for step, rewards, targets in (
        (0, nothing, live), (1, nothing, flat), (2, nothing, flat), (FIRST, nothing, flat),
    ):  # fmt: skip
        warn_of_nothing(tmp_path, step, rewards, targets, rollout)
    lines = capsys.readouterr().err.splitlines()
    assert [line[:17] for line in lines] == ["warning: step 0: ", "warning: step 1: "]
    assert read_json(tmp_path / "manifest.json")["warnings"] == [line[9:] for line in lines]
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "score/mean": 0.0, "kl/k1": 0.0}\n')
    from tokencredit.reports.summary import closing_summary

    for line in lines:
        assert line[9:] in closing_summary(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "sparse",
        "uniform",
        "abc",
        "abc_d",
        "abc_d2",
        "attribution",
        "rto",
        "rto_v2",
        "rto_shaped",
        "dppo",
        "ddpo",
        "semi_rto",
        "Redistribute",
    ],
)
def test_schemes_of_the_readme_are_checked_by_name(name: str) -> None:
    ended = CliRunner().invoke(app, ["check-scheme", name])
    assert ended.exit_code == 0, ended.exception
    assert ended.stdout.startswith("ok  returns float32") and ended.stdout.count("ok  ") >= 9


PLUGIN = """
from dataclasses import dataclass
from tokencredit.config import register_component
from tokencredit.rewards.{base} import {kind} as Base


@dataclass(slots=True, kw_only=True)
class {name}(Base):
    factor: float = 1.0

    def token_rewards(self, rollout, judgement):
        return self.factor * super({name}, self).token_rewards(rollout, judgement)


register_component("{group}", {name})
"""


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plugin(name: str, group: str = "reward_scheme", file: str = "mine_plugin") -> str:
    Path(f"{file}.py").write_text(
        PLUGIN.format(name=name, group=group, base="sparse", kind="Sparse")
    )
    return f"{file}.py"


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("Sparse", "class tokencredit.rewards.sparse.Sparse"),
        ("abc", "abc.yaml"),
        ("rto_v2", "rto_v2.yaml"),
    ],
)
def test_schemes_with_a_built_ins_name_are_refused(kept: Path, name: str, taken: str) -> None:
    with pytest.raises(UserError) as caught:
        load_plugins([plugin(name)])
    text = str(caught.value)
    assert text.startswith("--plugin mine_plugin.py") and taken in text
    assert str(kept / "mine_plugin.py") in text and "another name" in text
    assert name not in {kind.__name__ for kind in COMPONENTS["reward_scheme"][BUILT_IN:]}


def test_schemes_of_one_name_in_two_plugins_are_refused(kept: Path) -> None:
    first, second = plugin("Twin", file="one_plugin"), plugin("Twin", file="two_plugin")
    with pytest.raises(
        UserError, match=r"two_plugin\.py: registers .*'Twin', as does .*one_plugin"
    ):
        load_plugins([first, second])
    for alone in (first, second, first):  # of one command after another
        load_plugins([alone])
        kind = configuration.component_named("reward_scheme", "Twin")
        module = sys.modules[kind.__module__]
        assert module.__file__ == str(kept / alone)


def test_options_with_a_built_ins_name_are_refused(kept: Path) -> None:
    (kept / "my_conf" / "reward_scheme").mkdir(parents=True)
    (kept / "my_conf" / "reward_scheme" / "mine.yaml").write_text("defaults: [Sparse, _self_]\n")
    check_options(more_folders(["--config-dir", str(kept / "my_conf")]))
    assert more_folders([]) == []
    (kept / "my_conf" / "reward_scheme" / "abc.yaml").write_text("defaults: [Sparse, _self_]\n")
    with pytest.raises(UserError, match=r"my_conf/reward_scheme/abc\.yaml has the name of .*conf"):
        check_options([kept / "my_conf"])


def test_schemes_of_ones_own_are_checked_by_class_and_by_option(kept: Path) -> None:
    file = plugin("Scaled")
    (kept / "my_conf" / "reward_scheme").mkdir(parents=True)
    option = kept / "my_conf" / "reward_scheme" / "twice.yaml"
    option.write_text("defaults: [Scaled, _self_]\nfactor: 2.0\n")
    given = ["check-scheme", "--plugin", file, "--config-dir", "my_conf"]
    assert CliRunner().invoke(app, [*given, "Scaled"]).exit_code == 0
    ended = CliRunner().invoke(app, [*given, "twice"])
    assert isinstance(ended.exception, UserError)
    assert "sums to the score: found 3 for the score 1.5" in str(ended.exception)
    ended = CliRunner().invoke(app, [*given, "thrice"])
    assert isinstance(ended.exception, UserError)
    assert "no such scheme" in str(ended.exception) and "twice" in str(ended.exception)


def test_a_class_that_is_registered_twice_is_one(kept: Path) -> None:
    before = len(COMPONENTS["reward_scheme"])
    register_component("reward_scheme", Own)
    register_component("reward_scheme", Own)
    register_component("reward_scheme", Sparse)
    assert len(COMPONENTS["reward_scheme"]) == before + 1
