"""What can be seen of the settings of stages, data, places, and W&B: see observers.py."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders import PAD_ID, make_judgement, make_rollout, tiny_classifier
from observers import Anything, plain, sums
from strangers import panel_of, said, stranger
from tokencredit import config as configuration
from tokencredit.config import Config
from tokencredit.data.pairs import Pair
from tokencredit.data.records import Record
from tokencredit.data.splits import Corpus
from tokencredit.errors import UserError
from tokencredit.models.loading.scratch import write_scratch_model
from tokencredit.models.scorer import Scorer
from tokencredit.pipeline.cells import committed_cell, keep
from tokencredit.pipeline.pipeline import all_stages
from tokencredit.pipeline.process import run_stage
from tokencredit.reports.summary import _headline
from tokencredit.rewards.sparse import Sparse
from tokencredit.rl.payer import Payer
from tokencredit.rollout import Judgement, Rollout
from tokencredit.stages.base_model import base_of
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.oracle import OracleStage
from tokencredit.stages.results import write_results
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.rl import RLStage
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.store.artifacts import Store
from tokencredit.store.run_folder import RunFolder, State

LABELS = ("1", "0", "pos", "neg")
TEXTS = [f"<br />review {n} says it was a {LABELS[n % 4]} film" for n in range(80)]


def rows(*origin: object) -> Iterator[dict[str, Any]]:
    """Eighty rows that say where they are from; one of them has an unusable label."""
    # Not the folder of a test, on which the splits would depend.
    origin = tuple(part.name if isinstance(part, Path) else part for part in origin)
    for n, text in enumerate(TEXTS):
        label, said = LABELS[n % 4], f"{text} {origin}"
        before = f"\n\nHuman: {said}" + "\n\nAssistant: No.\n\nHuman: Sure?" * (n % 2)
        yield {
            "text": said,
            "body": said.upper(),
            "prompt": said,
            "completion": "Yes.",
            "gap": n / 2,
            "label": "?" if n == 7 else label,
            "mark": LABELS[(n + 1) % 4],
            "chosen": f"{before}\n\nAssistant: Yes.",
            "rejected": f"{before}\n\nAssistant: No.",
            "info": {"post": said, "title": "A review"},
            "summaries": [{"text": "Good."}, {"text": "Bad."}],
            "choice": 0,
        }


def read(config: Config, place: Path) -> Any:
    """The records of every split, or why there are none."""
    with pytest.MonkeyPatch.context() as patch:
        for source in ("packaged_reviews", "hub_rows", "file_rows"):
            patch.setattr(f"tokencredit.data.dataset.{source}", rows)
        try:
            corpus = config.dataset.read()
        except UserError as refused:
            return str(refused)
    return [plain(corpus.parts), dict(corpus.dropped.counts)]


def split_sizes(config: Config, place: Path) -> dict[str, int]:
    """How many records each split has."""
    return {name: len(part) for name, part in Context(config).corpus.parts.items()}


def places(config: Config, place: Path) -> Any:
    """Which models policy and reward model start from; the hub has a commit for every revision."""

    def info(_: object, name: str, revision: str | None, timeout: float) -> SimpleNamespace:
        return SimpleNamespace(sha=f"{name} at {revision}")

    def absent(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    found: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.HfApi.model_info", info)
        patch.setattr("huggingface_hub.hf_hub_download", absent)  # no adapters there
        sources = (config.model.policy, config.model.reward_source(), config.model.dpo_source())
        for source in sources:
            base = base_of(Context(config), source)
            found += [base.identity(), list(base.parents()), base.source.source]
    return found


def scratched(config: Config, place: Path) -> Any:
    """The decoder that is made from nothing."""
    folder = place / "scratch"
    folder.mkdir(exist_ok=True)
    texts = [record.text for record in Context(config).corpus.parts["sft"]]
    write_scratch_model(config.model, texts, config.stage_seed, folder)
    config_json = (folder / "config.json").read_text("utf-8")
    return [config_json, sums(load_file(folder / "model.safetensors"))]


class Trainer:
    """Stands for a borrowed trainer: keeps what it is given, trains nothing."""

    made: list[dict[str, Any]] = []  # noqa: RUF012 - shared on purpose
    compute_loss = None

    def __init__(self, **given: Any) -> None:
        self.made.append(given)
        self.model, self.train_dataset = given["model"], given["train_dataset"]


def asked(config: Config, place: Path, stage: type[Stage]) -> Any:
    """What a stage asks of its trainer, and the figures it reports."""
    out = place / "stage"
    out.mkdir(exist_ok=True)
    trl = ModuleType("trl")
    trl.SFTConfig, trl.SFTTrainer = dict, Trainer  # type: ignore[attr-defined]
    trl.RewardConfig, trl.RewardTrainer = dict, Trainer  # type: ignore[attr-defined]
    trl.DPOConfig, trl.DPOTrainer = dict, Trainer  # type: ignore[attr-defined]
    torch.manual_seed(0)
    Trainer.made.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "trl", trl)
        patch.setitem(vars(sys.modules["transformers"]), "Trainer", Trainer)
        patch.setitem(vars(sys.modules["transformers"]), "TrainingArguments", dict)
        patch.setattr("tokencredit.stages.trainer.train", lambda *_: {"loss": 1.0})
        figures = stage(Context(config)).run(out)
    given = [
        [settings["args"], list(settings["train_dataset"]), adapters(settings["model"])]
        for settings in Trainer.made
    ]
    return [given, figures]


def adapters(model: Any) -> list[Any]:
    """Rank, scale, and dropout of a model's adapters, and the format of its weights."""
    found = [
        [config.r, config.lora_alpha, config.lora_dropout, config.use_rslora]
        for config in getattr(model, "peft_config", {}).values()
    ]
    return [*found, str(next(model.parameters()).dtype)]


def fine_tuned(config: Config, place: Path) -> Any:
    return asked(config, place, SFTStage)


def reward_trained(config: Config, place: Path) -> Any:
    return asked(config, place, RewardModelStage)


def preferred(config: Config, place: Path) -> Any:
    """What DPO asks of its trainer and reports; reviews and their beginnings are its pairs."""

    def pairs(corpus: Corpus, split: str, otherwise: str = "") -> list[Record]:
        return [
            replace(r, prompt=r.text[:20], completion=r.text[20:], rejected=r.text[20:40])
            for r in corpus.parts[split]
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Corpus, "pairs", pairs)
        patch.setattr(Store, "get", lambda *_: SimpleNamespace(path=place / "model"))
        patch.setattr("tokencredit.stages.dpo.load_sampled", lambda *_: SAMPLED)
        return asked(config, place, DPOStage)


SAMPLED = [Pair(prompt_ids=[5], chosen_ids=[6, 0], rejected_ids=[7, 8, 0])] * 9


def sampled(config: Config, place: Path) -> Any:
    """How many pairs the SFT model's own responses make."""
    out = place / "sampled"
    out.mkdir(exist_ok=True)
    scorer = Scorer(tiny_classifier(), PAD_ID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "get", lambda *_: SimpleNamespace(path=place / "model"))
        patch.setattr("tokencredit.stages.sampled_pairs.open_scorer", lambda *_: scorer)
        return SampledPairsStage(Context(config)).run(out)


def rated(config: Config, place: Path) -> Any:
    """The oracle."""
    out = place / "oracle"
    out.mkdir(exist_ok=True)
    figures = OracleStage(Context(config)).run(out)
    return [sums(load_file(out / "oracle.safetensors")), len(figures)]


def met(config: Config, place: Path) -> Any:
    """What a reward model with another vocabulary says of a response, or why it says nothing."""
    stranger(place, "wordpiece")
    try:
        panel = panel_of(config, place)
    except UserError as refused:
        return str(refused)
    return plain(panel(said("own", [("the movie", " was good")], [True])))


def stages(config: Config, place: Path) -> list[str]:
    """Which stages a run has."""
    return [stage.name for stage in all_stages(Context(config))]


def where(config: Config, place: Path) -> list[str]:
    """Where the run lies; the key in its name is left out."""
    stage = RLStage(Context(config))
    return [str(stage.folder.parent), stage.folder.name * bool(config.run_dir)]


def stored(config: Config, place: Path) -> str:
    return str(Context(config).store.root)


def kept(config: Config, place: Path) -> bool:
    """Whether the cell of a run that is complete is kept, and then counts as done."""
    run = RunFolder(place / "complete")
    run.path.mkdir(exist_ok=True)
    config.run_dir = str(run.path)
    stage = RLStage(Context(config))
    run.write(State.complete, key=stage.key)
    rows = [f'{{"step":{step},"score/mean":1.0}}\n' for step in range(config.steps)]
    (run.path / "metrics.jsonl").write_text("".join(rows))
    (run.path / "config.yaml").write_text(configuration.dump(config))
    write_results(run, config, stage.key, {}, 1.0, {})
    keep(config, stage, [], anew=True)
    return committed_cell(config) is not None


def resumed(config: Config, place: Path) -> str:
    """Whether a run that began on another number of threads may go on."""
    stage = RLStage(Context(config))
    run = RunFolder(place / "resumed")
    run.path.mkdir(exist_ok=True)
    run.write(
        State.running, key=stage.key, arithmetic={**config.hardware.arithmetic(), "threads": 99}
    )
    config.run_dir = str(run.path)
    try:
        RLStage(Context(config)).check_folder()
    except UserError:
        return "refused"
    return "allowed"


def results(config: Config, place: Path) -> Any:
    """What results.json and the summary's first line say of the configuration itself."""
    run = RunFolder(place / "results")
    run.path.mkdir(exist_ok=True)
    (run.path / "metrics.jsonl").write_text('{"step":0,"score/mean":1.0}\n')
    written = write_results(run, config, RLStage(Context(config)).key, {}, 1.0, {})
    said = {name: value for name, value in written.items() if name != "config_hash"}
    return [said, _headline(RunFolder.logged(run.path))]


def finished(config: Config, place: Path) -> list[str]:
    """Whether the end of a run draws its figures."""
    drawn: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        here = "tokencredit.stages.rl."
        for name in (
            "evaluate",
            "accuracies",
            "write_rows",
            "export_policy",
            "report",
        ):
            patch.setattr(here + name, lambda *_: None)
        patch.setattr(here + "left_out", lambda *_: [])
        patch.setattr(here + "seconds_of_steps", lambda _: 0.0)
        empty: dict[str, dict[str, float]] = {"metrics": {}, "evaluation": {}}
        patch.setattr(here + "write_results", lambda *_: empty)
        patch.setattr(here + "write_figures", lambda _: drawn.append("figures"))
        patch.setattr(RLStage, "_learner", lambda *_: Anything())
        patch.setattr(RLStage, "_tracker", lambda *_: Anything())
        run: Any = SimpleNamespace(path=place, write=lambda *_, **__: None)
        world: Any = Anything()
        RLStage(Context(config))._train_and_evaluate(run, world, None)
    return drawn


def launched(config: Config, place: Path) -> Any:
    """The processes that an RL stage and an earlier one are started in."""
    started: list[Any] = []
    names = ("OMP_NUM_THREADS", "DS_ACCELERATOR", "WORLD_SIZE")

    def start(command: list[str], env: dict[str, str], **_: Any) -> Any:
        started.append([command[2:4], [env.get(name) for name in names]])
        return SimpleNamespace(stdin=io.BytesIO(), poll=lambda: 0, kill=Anything(), wait=int)

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.delenv(name, raising=False)
        patch.setattr(subprocess, "Popen", start)
        for stage in ("rl", "sft"):
            run_stage(config, stage, "key")
    return started


class Timed(Sparse):
    """A scheme of a user's own that looks at its time."""

    def measure(self, rollout: Rollout, judgement: Judgement) -> dict[str, float]:
        return {"left": round(signal.getitimer(signal.ITIMER_REAL)[0])}


def limited(config: Config, place: Path) -> dict[str, float]:
    """The seconds that a scheme of the user's own may take."""
    rollout = make_rollout([2])
    paying = Payer(replace(config, reward_scheme=Timed()))
    return paying.measure(rollout, make_judgement(rollout), 0)


def loaded(config: Config, place: Path) -> bool:
    """Whether another process that reads the configuration runs the plug-in."""
    mark = place / "plugin.ran"
    mark.unlink(missing_ok=True)
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    (place / "plugin.py").write_text(code)
    configuration.read(io.StringIO(configuration.dump(config)))
    for name in [name for name in sys.modules if name.endswith("_plugin")]:
        del sys.modules[name]  # to be imported again
    return mark.exists()
