"""Judges and other classes of the user's: whatever they do, it works or is said in one line."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import handed, make_judgement, make_rollout, speaking, train_tokenizer
from case_machine import Place
from tokencredit.commands.check_scheme import examine
from tokencredit.composing.explain import explain
from tokencredit.errors import UserError
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.judges.panel import SameAsJudge, open_panel
from tokencredit.rewards.promises import MEASURED
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rl.payer import Payer
from tokencredit.rollout import Judgement, Notes, Rollout
from tokencredit.settings import Run

pytestmark = pytest.mark.usefixtures("any_types")
WORDS = train_tokenizer()


@dataclass(slots=True, kw_only=True)
class Own(Judge):
    """A judge whose answer a test chooses."""

    said: Any = None
    meaning: Evidence = Evidence.nonnegative

    def gives(self) -> Evidence:
        """As chosen."""
        return self.meaning

    def open(self, given: Any, actors: Any) -> OpenJudge:
        """What was chosen; itself, where it is no function."""
        if self.said == "open":
            raise LookupError("cannot be opened")
        opened: OpenJudge = self.said
        return opened


def asked(said: Any, meaning: Evidence = Evidence.nonnegative, scorer: Any = None) -> Judgement:
    """What becomes of an answer about two responses, of 2 and 3 tokens, to records 0 and 1."""
    judge, context = Own(said=said, meaning=meaning), handed(seconds=2.0)
    panel = open_panel(judge, scorer or SameAsJudge(), context, speaking(WORDS))
    return panel(make_rollout([2, 3]))


def judgement(scores: Any = (1, 2), evidence: Any = None, **more: Any) -> Any:
    """A judge that says this, and fits where nothing is said."""

    def judge(rollout: Rollout) -> Judgement:
        made = torch.ones(rollout.response_mask.shape) if evidence is None else evidence
        return Judgement(scores=scores, evidence=made, **more)

    return judge


def ends(_: Rollout) -> Judgement:
    raise SystemExit(0)


def waits(_: Rollout) -> Judgement:
    while True:
        pass


def spoils(rollout: Rollout) -> Judgement:
    rollout.response_ids.zero_()
    rollout.logp.fill_(torch.nan)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(True)
    made: Judgement = judgement()(rollout)
    return made


NAN, MINUS = torch.tensor([[1, torch.nan, 1], [1, 1, 1]]), torch.tensor([[1.0, 1, 1], [1, 1, -1]])
WRONG = {
    "open": ("open", "raised LookupError: cannot be opened"),
    "not callable": (3, "open returned a value of type int; return a function"),
    "raises": (lambda r: {}[r.rows.tolist()[1]], "asked about 2 responses, rows 0, 1): raised Key"),
    "ends": (ends, "raised SystemExit"),
    "waits": (waits, "has not returned after 2 s"),
    "none": (lambda _: None, "returned a value of type NoneType; return Judgement("),
    "scores of another shape": (judgement(torch.ones(2, 1)), "scores of shape (2, 1) for 2 resp"),
    "too many": (judgement([1, 2, 3]), "scores of shape (3,) for 2 responses"),
    "text": (judgement(["1", 2]), "returned '1' for row 0, response 0"),
    "nan": (judgement([1, float("nan")]), "nan for row 1, response 1, a number that is not finite"),
    "complex": (judgement([1, 1j]), "complex number"),
    "evidence of another shape": (judgement(evidence=torch.ones(2, 5)), "evidence is of shape (2"),
    "evidence of one row": (judgement(evidence=torch.ones(1, 3)), "evidence is of shape (1, 3)"),
    "no tensor": (judgement(evidence=[[1, 2], [1, 2, 3]]), "evidence is a list; give a tensor"),
    "evidence nan": (judgement(evidence=NAN), "token 1 of row 0, response 0 has the evidence nan"),
    "negative": (judgement(evidence=MINUS), "token 2 of row 1, response 1 has the evidence -1"),
    "complex evidence": (judgement(evidence=torch.ones(2, 3) * 1j), "evidence is of torch.complex"),
    "ends of another shape": (judgement(ends=torch.ones(2)), "ends is of shape (2,)"),
    "notes": (judgement(notes={"a": 1}), "notes are of type dict; give Notes("),
    "a note": (judgement(notes=Notes({"a": torch.ones(3)})), "(note 'a'): returned scores of"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_case_5_what_a_judge_of_ones_own_does_ends_in_one_line(kind: str) -> None:
    said, wanted = WRONG[kind]
    with pytest.raises(UserError) as found:
        asked(said)
    assert str(found.value).startswith(f"judge = Own (of {__file__})") and wanted in str(
        found.value
    )
    assert "\n" not in str(found.value)


def test_case_5_a_judge_of_ones_own_may_return_every_kind_of_number() -> None:
    evidence = torch.tensor([[1, 2, torch.nan], [3, 4, 5]], requires_grad=True)  # one is masked
    said = asked(judgement(scores=[True, 2], evidence=evidence, ends=torch.eye(2, 3)))
    assert said.scores.tolist() == [1, 2] and said.scores.dtype == torch.float32
    assert said.evidence.tolist() == [[1, 2, 0], [3, 4, 5]] and not said.evidence.requires_grad
    assert said.ends is not None and said.ends.dtype == torch.bool
    whole = asked(judgement(evidence=torch.ones(2, 3, dtype=torch.int64)))
    assert whole.evidence.dtype == torch.float32
    assert asked(judgement(evidence=0), Evidence.none).evidence.tolist() == [[0] * 3] * 2
    assert asked(judgement(evidence=MINUS), Evidence.signed).evidence[1, 2] == -1


def test_case_5_only_what_is_read_of_a_judge_must_be_right() -> None:
    scorer = Own(said=judgement([5, 6], evidence="none"))
    said = asked(judgement(scores=None), scorer=scorer)
    assert said.scores.tolist() == [5, 6] and said.evidence.sum() == 5
    with pytest.raises(UserError, match=r"^scorer = Own .* returned None where scores are wanted"):
        asked(judgement(), scorer=Own(said=judgement(scores=None)))


@torch.no_grad()
def test_case_5_what_a_judge_of_ones_own_changes_is_as_before() -> None:
    rollout = make_rollout([2, 3])
    ids, logp = rollout.response_ids.clone(), rollout.logp.clone()
    open_panel(Own(said=spoils), SameAsJudge(), handed(), speaking(WORDS))(rollout)
    assert torch.equal(rollout.response_ids, ids) and torch.equal(rollout.logp, logp)
    assert torch.get_default_dtype() == torch.float32 and not torch.is_grad_enabled()


def test_case_5_what_a_class_of_ones_own_raises_anywhere_is_no_bug_of_ours() -> None:
    try:
        Own(said=waits).said.no_such_attribute  # noqa: B018
    except AttributeError as error:
        caught = error
    mistake = explain(caught)
    line = caught.__traceback__ and caught.__traceback__.tb_lineno
    assert str(mistake).startswith("the user's own code raised AttributeError: 'function' object")
    assert str(mistake).endswith(f"({__file__}, line {line})")
    assert explain(RuntimeError("raised nowhere")) is None


PLUGIN = """
from dataclasses import dataclass
from tokencredit.config import register_component
from tokencredit.judges.judge import Judge
from tokencredit.rewards.scheme import RewardScheme


@dataclass(slots=True, kw_only=True)
class Broken(Judge):
    def open(self, context, actors):
        return None

    def {method}(self, *_):
        {statement}


@dataclass(slots=True, kw_only=True)
class Ending(RewardScheme):
    def __post_init__(self):
        raise SystemExit(0)

    def token_rewards(self, rollout, judgement):
        return None


register_component("judge", Broken)
register_component("reward_scheme", Ending)
"""


@pytest.mark.parametrize(
    ("method", "statement", "said"),
    [
        ("__post_init__", "raise SystemExit(0)", "raised SystemExit: 0"),
        ("check", "raise SystemExit(0)", "raised SystemExit: 0"),
        ("identity", "return {}['x']", "raised KeyError: 'x'"),
    ],
)
def test_case_5_plan_says_what_a_class_of_ones_own_raises(
    place: Place, method: str, statement: str, said: str
) -> None:
    (place.folder / "mine.py").write_text(PLUGIN.format(method=method, statement=statement))
    chosen = ["judge=Broken", "scorer=reward_model", "reward_scheme=sparse"]
    ended = place.command("plan", "--plugin", "mine.py", *place.base, *chosen)
    assert ended.code == 2 and f"error: the user's own code {said}" in ended.err
    assert f"{place.folder / 'mine.py'}, line 14" in ended.err and "Traceback" not in ended.err


def test_case_5_a_scheme_that_ends_the_process_is_no_checked_scheme(place: Place) -> None:
    (place.folder / "mine.py").write_text(PLUGIN.format(method="check", statement="pass"))
    ended = place.command("check-scheme", "Ending", "--plugin", "mine.py")
    assert ended.code == 2 and "raised SystemExit: 0" in ended.err


def payer(scheme: RewardScheme) -> Payer:
    config: Any = SimpleNamespace(reward_scheme=scheme, run=Run(scheme="mine"))
    return Payer(config)


def batch() -> tuple[Rollout, Judgement]:
    rollout = make_rollout([4, 1, 3])
    return rollout, make_judgement(rollout)


@dataclass(slots=True, kw_only=True)
class Measuring(Sparse):
    """Pays rightly, and measures what a test chooses."""

    measured: Any = None

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        """As chosen."""
        made: dict[str, float] = self.measured
        return made


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (None, "found NoneType"),
        ({"a": torch.nan}, "found nan for 'a'"),
        ({"a": torch.ones(2)}, "found Tensor for 'a'"),
        ({"a": "1"}, "found str for 'a'"),
        ({1: 1.0}, "found float for 1"),
    ],
)
def test_schemes_measure_numbers_by_name(measured: Any, said: str) -> None:
    scheme = Measuring(measured=measured)
    with pytest.raises(UserError) as found:
        payer(scheme).measure(*batch(), 7)
    assert "step 7: breaks a promise" in str(found.value) and said in str(found.value)
    assert {n for n, problem in examine(scheme).items() if problem} == {MEASURED}


def test_schemes_measure_tensors_of_one_number_too() -> None:
    scheme = Measuring(measured={"a": torch.ones(1), "b": True, "c": 3})
    found = payer(scheme).measure(*batch(), 0)
    assert found == {"a": 1, "b": 1, "c": 3} and {type(x) for x in found.values()} == {float}


@dataclass(slots=True, kw_only=True)
class Doubling(Sparse):
    """Pays twice the score, and hides it from a look at the sum."""

    def token_rewards(self, rollout: Rollout, judgement: Judgement) -> Tensor:
        """The rewards of what it has made of the scores."""
        judgement.scores.mul_(2)
        made: Tensor = Sparse().token_rewards(rollout, judgement)
        return made


def test_schemes_that_change_tensors_in_place_change_nothing_of_a_run() -> None:
    rollout, judgement = batch()
    scores = judgement.scores.clone()
    with pytest.raises(UserError, match="sums to the score"):
        payer(Doubling()).pay(rollout, judgement, 0)
    assert torch.equal(judgement.scores, scores)
