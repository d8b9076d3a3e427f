"""Components of the user's own, from a folder in which there is nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
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
    from ended import Ended

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

    error = own.run("generate", str(single.folder), "--prompt", "the").error()
    assert "--plugin halves.py" in error
    own.run("generate", str(single.folder), "--prompt", "the", "--plugin", "halves.py").ok()
    (kept,) = single.json("manifest.json")["code"]
    assert (single.folder / kept["file"]).read_bytes() == (own.folder / "halves.py").read_bytes()

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
    own = replace(own, anew=True)
    error = own.train("--plugin", "no_such_plugin", "reward_scheme=halves").error()
    assert "no_such_plugin" in error


HELPED = '''\
from dataclasses import dataclass
from typing import ClassVar

from part import FACTOR, keep_some
from tokencredit.config import register_component
from tokencredit.rewards.scheme import RewardScheme


@dataclass(slots=True, kw_only=True)
class Helped(RewardScheme):
    """Equal shares, times a factor from a helper."""

    def token_rewards(self, rollout, judgement):
        from late import sign

        mask = rollout.response_mask
        return keep_some(sign() * FACTOR * judgement.scores[:, None] / rollout.lengths[:, None], mask)


register_component("reward_scheme", Helped)
'''
PART = "from tokencredit.ops import keep\nFACTOR = 2.0\ndef keep_some(x, mask):\n    return keep(x, mask)\n"
ENDINGS = """\
import os


def leave(prompts, responses):
    os._exit(0)


def long(prompts, responses):
    raise ValueError("é" * 200000)


def stuck(prompts, responses):
    return [sum(range(10**13))]


def good(prompts, responses):
    os.chdir("/")
    os.fork()
    return [0.0] * len(responses)
"""
FUNCTION = ["judge=function", "reward_scheme=uniform", "steps=2", "oracle.enabled=false"]


def test_case_4_a_plugins_helper_counts_for_runs_that_use_it_in_processes_of_every_kind(
    own: Workplace,
) -> None:
    for name, text in (("helped", HELPED), ("part", PART), ("late", "def sign():\n    return 1\n")):
        (own.folder / f"{name}.py").write_text(text)
    (own.folder / "vllm.py").write_text("raise SystemExit('taken for the library')\n")
    flags = ["--plugin", "helped.py", "steps=2"]
    own.train(*flags, "reward_scheme=Helped").ok()
    for row in the_run(own, "Helped").rows("samples.jsonl"):
        assert sum(row["rewards"]) == pytest.approx(2 * row["score"], rel=1e-5)
    swept = own.train(
        *flags, "-m", "reward_scheme=Helped,uniform", "seed=0", "runs_dir=swept",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert "2 cells, 0 failed" in swept.ok().out
    (folder,) = own.folder.glob("swept/Helped/*")
    assert folder.name == the_run(own, "Helped").folder.name
    uniform = own.plan("reward_scheme=uniform", "steps=2", "runs_dir=swept").out
    assert "5 hits, 0 misses" in uniform, "a plug-in that is not used is part of no key"
    for name in ("late", "part"):
        path = own.folder / f"{name}.py"
        path.write_text(path.read_text() + "# edited\n")
        plan = own.plan(*flags, "reward_scheme=Helped").out
        assert "4 hits, 1 misses" in plan and "plugins" in plan, name
        plan = own.plan(*flags, "reward_scheme=uniform", "runs_dir=swept").out
        assert "5 hits, 0 misses" in plan, name


def test_case_5_a_function_may_do_what_it_likes_with_the_process(own: Workplace) -> None:
    (own.folder / "ends.py").write_text(ENDINGS)
    for name, said in (
        ("leave", "the process ended with exit code 0 while this ran"),
        ("long", "raised ValueError: ééé"),
        ("stuck", "has not returned after 1 s, and could not be interrupted"),
    ):
        limit = "run.function_seconds=1" if name == "stuck" else "run.function_seconds=100"
        error = own.train(*FUNCTION, f"judge.function=ends.py:{name}", limit).error()
        assert f"'ends.py:{name}' (asked about" in error and said in error and len(error) < 2100
    ended = own.train(*FUNCTION, "judge.function=ends.py:good").ok()
    folder = next(iter(own.folder.glob("runs/uniform/*/results.json"))).parent
    manifest = Run(ended, folder).json("manifest.json")
    assert manifest["warnings"][0].startswith("step 0: every token's reward is 0")
    assert ended.err.count(f"warning: {manifest['warnings'][0]}") == 1
    assert manifest["warnings"][0] in ended.out


def test_case_6_files_with_names_of_libraries_change_no_run(own: Workplace, first: Run) -> None:
    for name in ("datasets", "torch", "yaml", "wandb", "evaluate", "accelerate", "hydra", "helper"):
        (own.folder / f"{name}.py").write_text("raise RuntimeError('taken for the library')\n")
    own = replace(own, anew=True)  # a fork has the libraries already
    own.train("steps=2", "reward_scheme=sparse", "stage_seed=0").ok()
    (own.folder / "datasets.py").write_text(JUDGE)
    (own.folder / "mine.py").write_text("import datasets\nlength = datasets.length\n")
    (own.folder / "clean.py").write_text(JUDGE)
    for file in ("datasets.py", "mine.py"):
        plan = own.run("plan", *own.base, *FUNCTION, f"judge.function={file}:length").error()
        assert "site-packages/datasets" in plan and str(own.folder / "datasets.py") in plan
        assert own.train(*FUNCTION, f"judge.function={file}:length").error() == plan
    own.plan(*FUNCTION, "judge.function=clean.py:length")


def test_schemes_that_break_a_promise_are_named_in_training(own: Workplace) -> None:
    undeclared = DENSE.replace("evidence: ClassVar[Evidence] = Evidence.signed", "")
    (own.folder / "undeclared.py").write_text(undeclared)
    error = own.train("--plugin", "undeclared.py", "reward_scheme=Dense", "steps=2").error()
    assert (
        "reward_scheme = Dense (Dense of " in error and "step 0: reads judgement.evidence" in error
    )
    assert "learning_rate" not in error and "`tokencredit check-scheme Dense --plugin" in error
    error = own.run("check-scheme", "Dense", "--plugin", "undeclared.py").error()
    assert "broken promises (1 of 10)" in error


def test_the_algorithm_of_the_page_trains_and_goes_on_to_the_same_bytes(own: Workplace) -> None:
    """docs/write-an-algorithm.md: its one file, and a cap that a checkpoint holds."""
    page = (Path(__file__).parents[2] / "docs" / "write-an-algorithm.md").read_text("utf-8")
    (text,) = re.findall(r"```python\n# truncated.py\n(.*?)```", page, re.DOTALL)
    (own.folder / "truncated.py").write_text(text, encoding="utf-8")
    named = ["--plugin", "truncated.py", "algorithm=truncated", "run.sample_every=1"]

    def go(steps: int, folder: str) -> Run:
        ended = own.train(*named, f"steps={steps}", f"run_dir={folder}")
        return Run(ended.ok(), own.folder / folder)

    straight = go(2, "straight")
    go(1, "resumed")
    resumed = go(2, "resumed")
    assert "continues at step 1" in resumed.ended.err
    for name in ("metrics.jsonl", "samples.jsonl", "policy/model.safetensors"):
        assert resumed.bytes(name) == straight.bytes(name)
    first, second = straight.rows()
    assert first["truncated/cap"] == 1.2 and second["truncated/cap"] != 1.2
    assert first["optimizer/steps"] == 2
    assert "algorithm.cap = -1.0" in own.train(*named, "algorithm.cap=-1").error()
