"""Components of the user's own, from a folder in which there is nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run, Workplace

pytestmark = pytest.mark.slow

DENSE = '''\
from dataclasses import dataclass
from typing import ClassVar

from tokencredit.config import register_component
from tokencredit.ops import keep
from tokencredit.rewards.scheme import Evidence, RewardScheme


@dataclass(slots=True, kw_only=True)
class Dense(RewardScheme):
    """Every token's reward is its evidence."""

    evidence: ClassVar[Evidence] = Evidence.signed

    def token_rewards(self, rollout, judgement):
        return keep(judgement.evidence, rollout.response_mask)


register_component("reward_scheme", Dense)
'''
JUDGE = '''\
def length(prompts, responses):
    """Long responses are good ones."""
    assert len(prompts) == len(responses)
    return [len(response) / 10 for response in responses]


def letters(prompts, responses, offsets):
    """The share of letters in each token; blank ones cost."""
    evidence = [
        [sum(c.isalpha() for c in text[a:b]) - 0.5 for a, b in spans]
        for text, spans in zip(responses, offsets, strict=True)
    ]
    return [sum(row) for row in evidence], evidence
'''


def the_run(place: Workplace, scheme: str) -> Run:
    """The only run of a scheme in the folder."""
    from .conftest import Ended

    (folder,) = place.folder.glob(f"runs/{scheme}/*")
    return Run(Ended(0, "", ""), folder)


def test_scheme_of_the_users_own_runs_alone_and_in_sweeps(
    own: Workplace, plugin: list[str]
) -> None:
    own.train(*plugin, "reward_scheme=halves", "steps=2").ok()
    single = the_run(own, "halves")
    for row in single.rows("samples.jsonl"):
        assert row["rewards"][0] == pytest.approx(0.25 * row["score"], rel=1e-5)
        assert row["rewards"][-1] == pytest.approx(0.75 * row["score"], rel=1e-5)
        assert not any(row["rewards"][1:-1])
    assert "5 hits, 0 misses" in own.plan(*plugin, "reward_scheme=halves", "steps=2").out

    swept = own.train(
        *plugin, "-m", "reward_scheme=halves", "reward_scheme.first=0.25,0.5", "steps=2"
    )
    assert "2 cells, 0 failed" in swept.ok().out
    assert "done before" in " ".join(swept.out.split())

    parallel = own.train(
        *plugin, "-m", "reward_scheme=halves,sparse", "steps=2", "runs_dir=parallel",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert "2 cells, 0 failed" in parallel.ok().out
    (folder,) = own.folder.glob("parallel/halves/*")
    assert (folder / "metrics.jsonl").read_bytes() == single.bytes()

    error = own.train(*plugin, "reward_scheme=halves", "reward_scheme.first=2").error()
    assert "reward_scheme.first = 2.0" in error
    error = own.train(*plugin, "reward_scheme=halves", "reward_scheme.frist=1").error()
    assert "'first'" in error
    error = own.train("--config-dir", "my_conf", "reward_scheme=halves").error()
    assert "Halves" in error

    source = own.folder / "halves.py"
    source.write_text(source.read_text() + "\n# edited\n")
    plan = own.plan(*plugin, "reward_scheme=halves", "steps=2").out
    assert "4 hits, 1 misses" in plan, "an edited plug-in is another run"
    assert "plugins" in plan


def test_function_scores_whole_responses(own: Workplace) -> None:
    (own.folder / "mine.py").write_text(JUDGE)
    arguments = [
        "judge=function",
        "judge.function=mine.py:length",
        "reward_scheme=uniform",
        "steps=2",
    ]
    plan = own.plan(*arguments, "oracle.enabled=false").out
    assert "reward_model" not in plan
    assert "oracle" not in plan
    own.train(*arguments, "oracle.enabled=false").ok()
    run = the_run(own, "uniform")
    for row in run.rows("samples.jsonl"):
        assert row["score"] == pytest.approx(len(row["response"]) / 10)
        assert row["rewards"] == pytest.approx(
            [row["score"] / len(row["tokens"])] * len(row["tokens"])
        )
    evaluation = run.json("results.json")["evaluation"]
    assert "policy/score" in evaluation
    assert "policy/oracle" not in evaluation
    (own.folder / "mine.py").write_text(JUDGE + "\n# edited\n")
    assert "judge" in own.plan(*arguments, "oracle.enabled=false").out


def test_function_pays_single_tokens(own: Workplace) -> None:
    (own.folder / "mine.py").write_text(JUDGE)
    (own.folder / "dense.py").write_text(DENSE)
    own.train(
        "--plugin", "dense.py", "judge=function", "judge.function=mine.py:letters", "reward_scheme=Dense",
        "steps=2",
    ).ok()  # fmt: skip
    for row in the_run(own, "Dense").rows("samples.jsonl"):
        assert sum(row["rewards"]) == pytest.approx(row["score"])
        letters = sum(c.isalpha() for c in row["response"])
        assert row["score"] == pytest.approx(letters - 0.5 * len(row["tokens"]))
        for token, reward in zip(row["tokens"], row["rewards"], strict=True):
            if token.isascii() and not token.startswith("<|"):
                assert reward == sum(c.isalpha() for c in token) - 0.5


def test_module_named_as_plugin_is_found_on_the_path(own: Workplace, plugin: list[str]) -> None:
    """`--plugin halves` is the module; the folder in which the command runs is on its path."""
    assert Path(plugin[1]).suffix == ".py"
    error = own.train("--plugin", "no_such_plugin", "reward_scheme=halves").error()
    assert "no_such_plugin" in error
