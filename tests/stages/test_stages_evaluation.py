"""Models that learnt without rollouts, evaluated as the policy of a run is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from built_stages import STAGES, build, furnish, preferred, stage_of
from preferences import pair_config
from tokencredit.algorithms.procedure import PreferenceOnly, Procedure, SupervisedOnly
from tokencredit.config import Config
from tokencredit.errors import UserError
from tokencredit.hardware import Hardware, Sharding
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.papers.held_out import held_out_table
from tokencredit.papers.sources import read_sources
from tokencredit.pipeline.cells import committed_cell, keep
from tokencredit.pipeline.pipeline import all_stages, last_stage, plan
from tokencredit.reports.held_out import MEASURES
from tokencredit.reports.stage_report import stage_summary
from tokencredit.rl.load import load_finished
from tokencredit.settings import Evaluation, Oracle
from tokencredit.stages.context import Context
from tokencredit.stages.evaluation import EvaluationStage
from tokencredit.stages.rl import RLStage
from tokencredit.stages.supervised import report_folder, report_stage
from tokencredit.store.artifacts import Artifact
from tokencredit.store.jsonl import read_jsonl
from tokencredit.store.run_folder import EVALUATION, RunFolder
from tokencredit.sweeps.objective import measures
from tokencredit.tracking.tracking import WandbMode

KINDS = [kind for kind, (name, _) in STAGES.items() if name == "evaluation"]
pytestmark = pytest.mark.xdist_group("evaluation")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("evaluated"))


def made(kind: str, place: Path) -> tuple[EvaluationStage, Artifact]:
    stage = stage_of(kind, place, place / "store")
    assert isinstance(stage, EvaluationStage)
    return stage, build(stage)


def rows_of(artifact: Artifact) -> list[dict[str, object]]:
    return list(read_jsonl(artifact.path / EVALUATION))


def run_of(config: Config, place: Path) -> RunFolder:
    """The run folder of one step with rollouts from the same SFT model."""
    config = replace(pair_config(place), steps=1, store=config.store, runs_dir=str(place / "runs"))
    config.run.figures, config.algorithm.batch_size = False, 4
    stage = RLStage(Context(config))
    for parent in stage.parents().values():
        build(parent)
    stage.build()
    return RunFolder(stage.folder)


def test_an_sft_model_wins_half_over_itself_at_no_distance(place: Path) -> None:
    _, artifact = made("evaluation of the SFT model", place)
    rows, found = rows_of(artifact), artifact.manifest["figures"]["evaluation"]
    assert rows and all(row["policy/response"] == row["sft/response"] for row in rows)
    assert {row["policy/win_rate"] for row in rows} == {0.5}
    assert {row["policy/kl"] for row in rows} == {0.0}
    assert found["policy/win_rate"]["mean"] == 0.5 and found["policy/kl"]["mean"] == 0.0
    for name in ("oracle", "length", "distinct_2"):
        assert found[f"policy/{name}"] == found[f"sft/{name}"]


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_model_that_learnt_is_measured_against_the_sft_model(place: Path, kind: str) -> None:
    stage, artifact = made(kind, place)
    rows, found = rows_of(artifact), artifact.manifest["figures"]["evaluation"]
    assert found["policy/kl"]["mean"] != 0.0 and math.isfinite(found["policy/kl"]["mean"])
    assert any(row["policy/response"] != row["sft/response"] for row in rows)
    better = [
        1.0 if row["policy/oracle"] > row["sft/oracle"]  # type: ignore[operator]
        else 0.5 if row["policy/oracle"] == row["sft/oracle"] else 0.0
        for row in rows
    ]  # fmt: skip
    assert found["policy/win_rate"]["mean"] == pytest.approx(sum(better) / len(better))
    assert not [name for name in found if name.endswith("/score")], "nobody was paid"
    assert artifact.manifest["figures"]["scorers"].keys() == {"oracle"}
    assert stage.results()["evaluation"] == found and stage.results()["steps"] == 0


def test_the_sft_model_says_what_it_says_in_a_run(place: Path) -> None:
    """The same prompts, random numbers, oracle: what both measure of it is equal to the bit."""
    stage, artifact = made("evaluation of a DPO model", place)
    rows, run = rows_of(artifact), run_of(stage.context.config, place)
    theirs = run.evaluation
    assert len(rows) == len(theirs) > 4
    for name in ("row", "prompt", "sft/response", "sft/length", "sft/oracle"):
        assert [row[name] for row in rows] == [row[name] for row in theirs], name
    measures = run.results["evaluation"]
    assert measures.keys() - {"policy/score", "sft/score"} == stage.results()["evaluation"].keys()
    for name in ("sft/oracle", "sft/distinct_2", "sft/length"):
        assert measures[name] == stage.results()["evaluation"][name]
    assert run.results["scorers"]["oracle"] == stage.results()["scorers"]["oracle"]
    assert run.results.keys() == stage.results().keys()


def test_perplexities_are_measured_where_they_are_asked_for(place: Path) -> None:
    config = stage_of("evaluation of a DPO model", place, place / "store").context.config
    config = replace(config, evaluation=Evaluation(prompts=4, perplexity=True))
    found = build(EvaluationStage(Context(config))).manifest["figures"]["evaluation"]
    assert found["policy/perplexity"]["mean"] > 1 and found["sft/perplexity_sft"]["mean"] > 1
    assert found["policy/perplexity"]["mean"] != found["sft/perplexity"]["mean"]


def test_an_adapter_lies_on_the_one_sft_model(place: Path) -> None:
    stage, _ = made("evaluation of a DPO model with adapters", place)
    actors = load_finished(stage.context.config, stage.made("policy"), stage.made("sft"))
    assert actors.reference.frozen is None, "its adapters are switched off"
    assert not actors.policy.uses_values


def ended(place: Path, **changes: object) -> Config:
    return replace(preferred(pair_config(place), place), store=str(place / "other"), **changes)  # type: ignore[arg-type]


def names(config: Config) -> list[str]:
    return [stage.name for stage in all_stages(Context(config))]


def test_it_is_the_last_stage_where_there_is_an_oracle(place: Path) -> None:
    assert names(ended(place)) == ["sft", "dpo", "oracle", "evaluation"]
    assert names(ended(place, algorithm=SupervisedOnly())) == ["sft", "oracle", "evaluation"]
    assert names(ended(place, oracle=Oracle(enabled=False))) == ["sft", "dpo"]


def test_without_what_an_oracle_learns_from_a_run_ends_as_before(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ended(place, algorithm=SupervisedOnly())
    rows = [{"prompt": f"film {n}?", "completion": f" it was {n}"} for n in range(60)]
    path = place / "demonstrations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config.dataset = replace(config.dataset, path=str(path), format="prompt_completion")
    assert names(config) == ["sft"]
    assert "evaluation: none, since there is no oracle to rate with" in capsys.readouterr().err
    config.run.experiment = "mine/own"
    with pytest.raises(UserError, match="the oracle need"):
        names(config)


def test_keys_of_the_model_are_what_they_were_and_the_seed_is_in_none(place: Path) -> None:
    before = {
        s.name: s.key for s in all_stages(Context(ended(place, oracle=Oracle(enabled=False))))
    }
    now = {s.name: s.key for s in all_stages(Context(ended(place)))}
    assert before.items() < now.items()
    other = {s.name: s.key for s in all_stages(Context(ended(place, seed=5, steps=7)))}
    assert other == now
    seeded = {s.name: s.key for s in all_stages(Context(ended(place, stage_seed=5)))}
    assert seeded["evaluation"] != now["evaluation"]


def test_evaluations_on_the_way_change_nothing_of_it(place: Path) -> None:
    keys = {
        EvaluationStage(Context(ended(place, evaluation=Evaluation(every=every)))).key
        for every in (None, 5)
    }
    assert len(keys) == 1


def test_a_plan_says_what_it_costs(place: Path) -> None:
    last = plan(ended(place, evaluation=Evaluation(prompts=4), runs_dir=str(place / "none")))[-1]
    assert last.name == "evaluation" and not last.hit
    assert (
        last.remark == "answers 4 held-out prompts twice, by dpo and by sft, in at most 15 tokens"
    )
    stage, _ = made("evaluation of the SFT model", place)
    assert stage.plan().hit and not stage.plan().remark


def test_prompts_that_leave_no_room_are_refused_before_any_work(place: Path) -> None:
    config = ended(place, runs_dir=str(place / "none"), rollout=Sampling(max_new_tokens=200))
    with pytest.raises(UserError, match=r"model\.context is 96; or .*oracle\.enabled=false"):
        plan(config)


def test_it_takes_one_process_and_the_threads_of_a_run(place: Path) -> None:
    hardware = Hardware(threads=3, stage_threads=5, processes=2, sharding=Sharding.zero2)
    stage = EvaluationStage(Context(ended(place, hardware=hardware)))
    assert stage.hardware.processes == 1 and stage.hardware.sharding is Sharding.none
    assert hardware.threads_of("evaluation") == 3 and hardware.processes_of("evaluation") == 1


def test_what_was_scored_and_trained_is_counted(place: Path) -> None:
    stage, _ = made("evaluation of a DPO model", place)
    assert stage.scored_samples() == 0, "the pairs are the data's"
    sampled = stage_of("dpo of sampled pairs", place, place / "store").context.config
    assert (
        EvaluationStage(Context(replace(sampled, algorithm=PreferenceOnly()))).scored_samples()
        == 32
    )
    assert stage.provenance()["spent"]["optimizer_steps"] > 0
    sft, _ = made("evaluation of the SFT model", place)
    assert sft.provenance()["spent"] == {"optimizer_steps": 0}
    seconds = [float(build(each).manifest["seconds"]) for each in (stage, stage.trained)]
    assert stage.results()["wall_seconds"] == pytest.approx(sum(seconds), abs=1e-3)


def in_an_experiment(kind: str, place: Path, **seeds: int) -> EvaluationStage:
    """The stage, built, of a cell of rto/win_rates that is kept in `place`/experiments."""
    config = stage_of(kind, place, place / "store").context.config
    config = replace(config, runs_dir=str(place / "runs"), **seeds)  # type: ignore[arg-type]
    config.experiments_dir = str(place / "experiments")
    config.run = replace(config.run, experiment="rto/win_rates", scheme="dpo", scale="cpu")
    config.tracking.mode = WandbMode.disabled
    stage = last_stage(Context(config))
    assert isinstance(stage, EvaluationStage)
    build(stage)
    return stage


def test_its_cell_is_kept_read_again_and_done(place: Path) -> None:
    stages = [
        in_an_experiment("evaluation of a DPO model", place, stage_seed=seed, seed=seed + 7)
        for seed in (0, 1)
    ]
    for stage in stages:
        assert committed_cell(stage.context.config) is None
        path = keep(stage.context.config, stage, ["method=dpo", "run.figures=false"], anew=True)
        assert path == place / "experiments" / "rto" / "win_rates" / f"{stage.key}.csv"
    (source,) = read_sources([place / "experiments"])
    runs = {run.run: run for run in source.runs}
    assert runs.keys() == {0, 1}, "a cell is of its stage_seed, whatever seed it was run with"
    for seed, stage in enumerate(stages):
        run, found = runs[seed], stage.figures()["evaluation"]
        assert run.stepless and run.setting.method == "dpo" and run.setting.task == "win_rates"
        assert run.origin.evaluation == found and run.origin.made.stage_seed == seed
        assert run.origin.made.scorers().keys() == {"oracle"}
        record = json.loads(run.origin.path.with_suffix(".json").read_text())
        assert record["provenance"]["overrides"] == ["method=dpo"]
        plan_of_it = committed_cell(stage.context.config)
        assert plan_of_it is not None and plan_of_it.hit and "committed" in plan_of_it.state
    stages[0].context.config.steps = 1000
    assert committed_cell(stages[0].context.config) is not None, "it has no steps to lack"
    assert "dpo" in held_out_table(source, "win_rates")


def test_its_report_says_what_it_came_to(place: Path) -> None:
    stage = in_an_experiment("evaluation of FIGA with adapters", place)
    report_stage(stage, anew=True)
    folder = report_folder(stage)
    assert folder == place / "runs" / "rto" / "win_rates" / stage.key
    assert json.loads((folder / "results.json").read_text()) == stage.results()
    assert measures(folder)["policy/win_rate"] == stage.figures()["evaluation"]["policy/win_rate"]
    record = json.loads((folder / "stage.json").read_text())
    assert (record["stage"], record["key"]) == ("figa", stage.key)
    assert record["model"] == str(stage.trained.folder)
    assert {"sft", "figa", "oracle"} <= record["figures"].keys()
    said, page = stage_summary(folder), (folder / "report.html").read_text()
    for text in (said, page):
        assert MEASURES[1:] in text and "win_rate" in text
    assert not (folder / "config.yaml").exists(), "judge compare would take it for a run"


@dataclass(slots=True, kw_only=True)
class Preferring(Procedure):
    """A user's own way to end with the DPO model."""

    ends_with = "dpo"


@dataclass(slots=True, kw_only=True)
class Lost(Procedure):
    """One that ends with a stage that there is not."""

    ends_with = "own"


@dataclass(slots=True, kw_only=True)
class Measuring(Procedure):
    """One that ends with a stage that makes no policy."""

    ends_with = "oracle"


def test_an_algorithm_without_rollouts_of_ones_own(place: Path) -> None:
    assert names(ended(place, algorithm=Preferring())) == ["sft", "dpo", "oracle", "evaluation"]
    assert names(ended(place, algorithm=Measuring())) == ["oracle"]
    with pytest.raises(UserError, match=r"Lost: ends_with = 'own'.*must name the stage.*sft.*dpo"):
        names(ended(place, algorithm=Lost()))
