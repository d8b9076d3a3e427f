"""Tries of the keys of judges, scorers, and reward schemes."""

from __future__ import annotations

from typing import Any

from edit_observers import discriminated, looking_back, played, preferring, refined
from observers import judged, paid

from .tries import HERE, Try

RTO = ("reward_scheme=rto",)
SCORED = ("reward_scheme=sparse", "scorer=implicit")
ENSEMBLE = ("judge=ensemble",)
ENSEMBLE_OF: dict[str, dict[str, dict[str, Any]]] = {
    group: {"c": {f"{group}.combine": "mean_minus_sd"}} for group in ("judge", "scorer")
}
TLCR, FIXED = ("reward_scheme=tlcr",), ("reward_scheme=tlcr_fixed",)
REFINING = ("algorithm=figa",)
BY_PAIRS = ("judge=bradley_terry", "reward_scheme=sparse")
PAIRS = {"dataset.path": f"{HERE}/pairs.jsonl", "dataset.format": "preference"}
DISCRIMINATING: dict[str, Any] = {
    "learning_rate": 0.1,
    "batch_size": 8,
    "micro_batch_size": 8,
    "epochs": 9.0,
    "max_tokens": 2000,
    "max_length": 48,
    "weight_decay": 0.3,
    "warmup_fraction": 0.5,
    "schedule": "constant",
    "max_grad_norm": 0.5,
    "max_steps": 1,
    "bf16": True,
}
PLAYING = ("judge=advantage", "reward_scheme=rto")
PLAYED: dict[str, tuple[Any, dict[str, Any]]] = {
    "rank": (3, {}),
    "centred": (False, {}),
    "lora_rank": (3, {}),
    "lora_alpha": (3, {}),
    "pi_context": ("concat", {}),
    "ties": ("drop", {"dataset.margin_column": "label"}),
    "separator": ("Again.", {}),
    "effects": (0, {}),
}
LOOKING_BACK = ("judge=hindsight", "reward_scheme=sparse")
TOLD: dict[str, Any] = {"outcomes": 3, "phrase": "Grade"}
ATTRIBUTING = {"method": "gradient_x_input", "baseline": "zero", "steps": 5, "pass_tokens": 40}

CREDIT: dict[str, Try] = {
    "judge.layer": Try(judged, 0),
    "judge.heads": Try(judged, [0]),
    "judge.row": Try(judged, "last", {"reward_model.score_at": "before_end"}),
    "judge.average": Try(judged, "last", {}, ("reward_scheme=abc_d",)),
    "judge.shift": Try(judged, "authors", {}, ("reward_scheme=abc_d",)),
    "judge.attention.layer": Try(judged, 0, choices=ENSEMBLE),
    "judge.attention.heads": Try(judged, [0], choices=ENSEMBLE),
    "judge.attention.row": Try(
        judged, "last", {"reward_model.score_at": "before_end"}, choices=ENSEMBLE
    ),
    **{
        f"{group}.{name}": Try(
            judged, value, ENSEMBLE_OF[group].get(name, {}), (f"{group}=ensemble",)
        )
        for group in ENSEMBLE_OF
        for name, value in (("members", 2), ("combine", "minimum"), ("c", 2.0))
    },
    **{
        f"judge.{name}": Try(judged, value, choices=("reward_scheme=attribution",))
        for name, value in ATTRIBUTING.items()
    },
    "judge.function": Try(
        judged,
        f"{HERE}/judge.py:nothing",
        {"judge.function": f"{HERE}/judge.py:length"},
        ("judge=function", "reward_scheme=sparse", "scorer=judge"),
    ),
    "judge.meaning": Try(
        judged,
        "nonnegative",
        {"judge.function": f"{HERE}/judge.py:length"},
        ("judge=function", "reward_scheme=sparse"),
    ),
    "scorer.function": Try(
        judged,
        f"{HERE}/judge.py:nothing",
        {"scorer.function": f"{HERE}/judge.py:length"},
        ("scorer=function",),
    ),
    "judge.reference": Try(judged, "kl", choices=RTO),
    "judge.sentence_end": Try(judged, "e", choices=RTO),
    "scorer.reference": Try(judged, "kl", choices=SCORED),
    "algorithm.gate": Try(refined, None, choices=REFINING),
    "algorithm.alpha": Try(refined, 2.0, choices=REFINING),
    "algorithm.beta": Try(refined, 0.1, {"algorithm.gate": None}, REFINING),
    **{
        f"algorithm.training.{name}": Try(refined, value, choices=REFINING)
        for name, value in {**DISCRIMINATING, "schedule": "linear"}.items()
    },
    "judge.pairs": Try(preferring, "revised", PAIRS, BY_PAIRS),
    **{
        f"judge.{name}": Try(played, value, {**PAIRS, **given}, PLAYING)
        for name, (value, given) in PLAYED.items()
    },
    **{f"judge.{name}": Try(looking_back, value, {}, LOOKING_BACK) for name, value in TOLD.items()},
    "judge.init": Try(discriminated, "base", choices=TLCR),
    **{
        f"judge.training.{name}": Try(discriminated, value, choices=TLCR)
        for name, value in DISCRIMINATING.items()
    },
    "reward_scheme.signs": Try(paid, "negative", choices=TLCR),
    "reward_scheme.reward_shift": Try(paid, 1, choices=TLCR),
    "reward_scheme.skip_last": Try(paid, True, choices=TLCR),
    "reward_scheme.softmax_twice": Try(paid, True, choices=TLCR),
    "reward_scheme.threshold": Try(paid, 0.9, choices=FIXED),
    "reward_scheme.threshold_on": Try(paid, "nothing", choices=FIXED),
    "reward_scheme.beta": Try(paid, 0.5),
    "reward_scheme.half_life": Try(paid, 1.0, choices=("reward_scheme=recency",)),
    "reward_scheme.profile": Try(
        paid,
        [1.0] * 10,
        {"reward_scheme.profile": [1.0, 0, 0, 0, 0, 0, 0, 0, 0, 1.0]},
        ("reward_scheme=position",),
    ),
    "reward_scheme.normalise": Try(paid, "raw", choices=("reward_scheme=attribution",)),
    "reward_scheme.scale": Try(paid, -0.5, choices=RTO),
    "reward_scheme.clip": Try(paid, 0.01, choices=RTO),
    "reward_scheme.zero_is_one": Try(paid, True, {"reward_scheme.scale": 0.0}, RTO),
    "reward_scheme.score": Try(paid, 1.0, choices=RTO),
    "reward_scheme.score_clip": Try(paid, 0.5, {"reward_scheme.score": 1.0}, RTO),
}
