"""Pages of details: every key they name exists, every test they name exists, every metric is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from builders import (
    EOS_ID,
    PAD_ID,
    make_judgement,
    make_rollout,
    tiny_causal,
    tiny_classifier,
    tiny_policy,
    train_tokenizer,
)
from named_tests import names_of_tests
from observers import furnish, learn
from policies import run_config
from schemes import scheme_of
from strangers import reading, said, weights
from tokencredit.algorithms.algorithm import Algorithm
from tokencredit.algorithms.optimizer import Optimizer
from tokencredit.algorithms.reinforce import Baseline, Reinforce
from tokencredit.algorithms.scores import Normalise
from tokencredit.canonical import flatten
from tokencredit.config import COMPONENTS, Config
from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source
from tokencredit.judges.advantage import AdvantageJudge
from tokencredit.judges.attribution import AttributionJudge
from tokencredit.judges.discriminator import judging
from tokencredit.judges.ensemble import Ensemble
from tokencredit.judges.hindsight import Reading
from tokencredit.judges.implicit import ImplicitJudge
from tokencredit.judges.judge import OpenJudge
from tokencredit.models.adapters.lora import Lora, adapted
from tokencredit.models.advantage_model import AdvantageHead, AdvantageModel
from tokencredit.models.bag_of_grams import BagOfGrams
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.discriminator import Discriminator
from tokencredit.models.hindsight import HindsightModel, Outcomes
from tokencredit.models.loading.trunk import head_of, hidden_size
from tokencredit.models.log_ratio import LogRatio, as_it_is
from tokencredit.models.passes.computation import Computation
from tokencredit.models.scorer import Scorer
from tokencredit.rewards.attribution import Attribution
from tokencredit.rewards.effects import DAE
from tokencredit.rewards.implicit import RTO
from tokencredit.rewards.scheme import RewardScheme
from tokencredit.rewards.sparse import Sparse
from tokencredit.rewards.tlcr import TLCR
from tokencredit.rewards.uniform import Uniform
from tokencredit.settings import Evaluation
from tokencredit.train import conf_dir

DOCS = Path(__file__).parents[2] / "docs"
CODE = re.compile(r"`([^`]+)`")


def table_rows(page: str) -> list[list[str]]:
    """The cells of every row of the page's tables, without headers."""
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("|---")
    ]
    return [row for row in rows if row[0] not in ("detail", "trap", "key")]


def known_keys() -> set[str]:
    """Every key of every component, groups and sections included."""
    found = {item.name for item in fields(Config)}
    for item in fields(Config):
        kinds = COMPONENTS.get(item.name) or [type(getattr(run_config(), item.name))]
        for kind in kinds:
            if hasattr(kind, "__dataclass_fields__"):
                tree = OmegaConf.to_container(OmegaConf.structured(kind))
                found |= {f"{item.name}.{key}" for key in with_sections(tree)}
    return found


def with_sections(tree: Any) -> Iterator[str]:
    for key in flatten(tree):
        parts = key.split(".")
        yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def keys_in(text: str) -> list[str]:
    """The keys that a text names in code, `key` or `key=value`; metrics have a stroke."""
    names = [code.partition("=")[0] for code in CODE.findall(text)]
    heads = {item.name for item in fields(Config)}
    return [
        n for n in names if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)*", n) and n.split(".")[0] in heads
    ]


def test_every_key_that_a_page_names_exists() -> None:
    known = known_keys()
    for page in ("ppo-details.md", "footguns.md", "metrics.md"):
        named = keys_in((DOCS / page).read_text(encoding="utf-8"))
        assert named and not set(named) - known, f"{page}: {set(named) - known}"


def test_a_key_that_does_not_exist_would_be_noticed() -> None:
    assert keys_in("`algorithm.clp=0.1` `algorithm.clip` `kl/k1` `x.y`") == [
        "algorithm.clp", "algorithm.clip",
    ]  # fmt: skip
    assert "algorithm.clp" not in known_keys() and "algorithm.clip" in known_keys()


def test_every_detail_has_a_key_or_needs_none_and_a_test() -> None:
    rows = table_rows("ppo-details.md")
    assert len(rows) > 60
    for detail, _, key, test in rows:
        if key == "none":
            continue
        assert key == "always" or keys_in(key) == [c.partition("=")[0] for c in CODE.findall(key)]
        assert CODE.findall(test) and set(CODE.findall(test)) <= set(names_of_tests()), detail
    assert sum(key == "none" for _, _, key, _ in rows) <= 1


def test_options_that_the_page_names_exist() -> None:
    text = (DOCS / "ppo-details.md").read_text(encoding="utf-8")
    options = re.findall(r"`algorithm=(\w+)`", text)
    assert len(options) == 4
    assert all((conf_dir() / "algorithm" / f"{name}.yaml").is_file() for name in options)


def described() -> set[str]:
    """The metrics of docs/metrics.md."""
    return {name for row in table_rows("metrics.md") for name in CODE.findall(row[0])}


KINDS = [kind for kind in COMPONENTS["algorithm"] if issubclass(kind, Algorithm)]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The metrics of one step of every algorithm, with all that can be measured switched on."""
    place = furnish(tmp_path_factory.mktemp("metrics"))
    found = {}
    for kind in KINDS:
        algorithm = replace(
            kind(), batch_size=4, samples_per_prompt=2, epochs=1, minibatches=1,
            normalise=Normalise.reference, normalise_samples=4,
            optimizer=Optimizer(learning_rate=1e-3),
        )  # fmt: skip
        if isinstance(algorithm, Reinforce):
            algorithm = replace(algorithm, baseline=Baseline.running)
        config = replace(
            run_config(algorithm=algorithm),
            dataset=Dataset(source=Source.path, path=str(place / "reviews.jsonl")),
            rollout=Sampling(min_new_tokens=2, max_new_tokens=5),
            evaluation=Evaluation(every=1, prompts=2, perplexity=True),
            reward_scheme=RTO(clip=0.1),
            judge=ImplicitJudge(),
            steps=1,
        )
        (row,) = learn(config, place, BagOfGrams(1024)).log.rows
        found[kind.__name__] = set(row) - {"step"}
    rollout = make_rollout([3, 1])
    for scheme in COMPONENTS["reward_scheme"]:
        found[scheme.__name__] = set(scheme_of(scheme).measure(rollout, make_judgement(rollout)))
    read = reading("own", "wordpiece", weights(1.0))(said("own", [("the", " was")], [False]))
    assert read.notes is not None
    found["text in tokens of its own"] = {f"judge/{name}" for name in read.notes.columns}
    models = as_it_is(tiny_causal(seed=1)), as_it_is(tiny_causal(seed=2))
    ratio = LogRatio(*models, computation=Computation(), filler=EOS_ID)
    notes = ImplicitJudge().judging(ratio, 0.1, train_tokenizer())(make_rollout([3])).notes
    assert notes is not None
    return found | of_judges() | {"implicit judge": {f"judge/{name}" for name in notes.columns}}


def playing() -> AdvantageModel:
    """An advantage model that has learnt nothing."""
    model = adapted(tiny_causal(), Lora(enabled=True, r=2, alpha=4))
    return AdvantageModel(model, AdvantageHead(hidden_size(model), len(head_of(model).weight)))


def looking_back(scorer: Scorer) -> OpenJudge:
    """A hindsight model of two outcomes that has learnt nothing."""
    model, ids = adapted(tiny_causal(), Lora(enabled=True, r=2, alpha=4)), tiny_policy().ids
    computation = Computation(uses_values=False)
    return Reading(HindsightModel(model, ids, Outcomes((0.0,), ((5,), (6,))), computation), scorer)


def of_judges() -> dict[str, set[str]]:
    """What judges and schemes log of their own."""
    rollout, scorer, found = make_rollout([3, 2]), Scorer(tiny_classifier(), PAD_ID), {}
    pairs: list[tuple[OpenJudge, RewardScheme]] = [
        (AttributionJudge(steps=2).judging(scorer), Attribution()),
        (Ensemble().judging([scorer, scorer]), Sparse()),
        (judging(Discriminator(tiny_classifier(num_labels=2))), TLCR()),
        (AdvantageJudge().judging(playing(), tiny_policy()), DAE()),
        (looking_back(scorer), Uniform()),
    ]
    for judge, scheme in pairs:
        said = judge(rollout)
        assert said.notes is not None
        notes = {f"judge/{name}" for name in said.notes.columns}
        found[type(scheme).__name__] = notes | set(scheme.measure(rollout, said))
    return found


def test_field_B26_every_logged_metric_is_described(logged: dict[str, set[str]]) -> None:
    for kind, names in logged.items():
        assert not names - described(), f"{kind}: {names - described()} is not in docs/metrics.md"


def test_field_B26_every_described_metric_is_logged(logged: dict[str, set[str]]) -> None:
    missing = described() - set().union(*logged.values())
    assert not missing, f"{missing} is in docs/metrics.md, but nothing logs it"
