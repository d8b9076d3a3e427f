"""Settings of the stages, as the configuration holds them: nothing here trains or loads a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from math import inf, prod
from typing import Any, ClassVar, Final

from tokencredit.algorithms.optimizer import Schedule
from tokencredit.algorithms.procedure import Procedure
from tokencredit.data.splits import Objective
from tokencredit.errors import require
from tokencredit.fields import Settings, added, number
from tokencredit.models.passes.sequences import ScoreAt
from tokencredit.training_settings import Training

MOST_KEYS: Final = 2
MOST_POINTS: Final = 6
"""What `tokencredit tune` tries of one method before its one extension."""


@dataclass(slots=True, kw_only=True)
class SFT(Training):
    """Supervised fine-tuning of the policy."""

    section: ClassVar[str] = "sft"

    train: bool = True
    """False: the policy starts from `model.policy` as it is (one that is fine-tuned already)."""
    batch_size: int = 32
    """Sequences of one optimizer step."""
    max_length: int = 64
    """Longest sequence, in tokens; prompts are beginnings of texts, so beginnings are enough."""
    max_tokens: int | None = 250_000
    """Stop after about this many training tokens, if that is less than `epochs`; null: never."""
    packing: bool = False
    """Join texts and cut them into pieces of max_length; else one text a sequence."""


@dataclass(slots=True, kw_only=True)
class RewardModel(Training):
    """The classifier that pays: logit(positive) − logit(negative), or its single output."""

    section: ClassVar[str] = "reward_model"

    train: bool = True
    """False: `model.reward` is a finished classifier and is used as it is."""
    objective: Objective = added(Objective.auto)
    """labels: two outputs, cross-entropy; pairs: one output, Bradley–Terry; auto: pairs where the
    records are pairs. The oracle learns from the same."""
    centre: float | None = added(number(None, above=0, null=""))
    """Weight of the mean of (score chosen + score rejected)², which holds scores around 0; pairs
    alone do not say where they lie. TRL suggests 0.01; null: none. Not used with labels."""
    epochs: float = 2.0
    """Passes over the data."""
    batch_size: int = 32
    """Sequences, or pairs, of one optimizer step."""
    max_length: int = 128
    """Longest sequence, in tokens. Pairs with a longer one are left out, and counted."""
    min_length: int = 8
    """Training texts are cut to a length drawn from [min_length, max_length] tokens, so that the
    model also knows short responses; set it to max_length for whole texts only. Not for pairs."""
    held_out: int = number(1000, at_least=1)
    """Held-out texts or pairs to measure accuracy on; `max_tokens` limits their tokens too."""
    score_at: ScoreAt = added(ScoreAt.end)
    """end, or before_end: read one token before the end token, which training texts then lack; for
    finished classifiers (train=false) whose pad token was their end token."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Training.__post_init__(self)
        require(
            1 <= self.min_length <= self.max_length,
            "reward_model.min_length",
            self.min_length,
            f"must lie between 1 and reward_model.max_length = {self.max_length}",
        )


class PairSource(str, Enum):
    """Where preference pairs come from."""

    dataset = "dataset"
    """The records of the data set, which must be pairs."""
    sampled = "sampled"
    """Two continuations of each prompt by the SFT model, the one with the higher score of the
    reward model first (the controlled sentiment task of Rafailov et al. 2023)."""


class PairLoss(str, Enum):
    """TRL's losses in the margin β (Σρ of chosen − Σρ of rejected)."""

    sigmoid = "sigmoid"
    """−log σ(margin): DPO."""
    robust = "robust"
    """−log σ(margin), unbiased where a share `label_smoothing` of the pairs is the wrong way
    round."""
    hinge = "hinge"
    """max(0, 1 − margin)."""
    ipo = "ipo"
    """The squared distance of the mean log-ratios a token from 1 / 2β."""


@dataclass(slots=True, kw_only=True)
class DPO(Training):
    """Direct preference optimisation: the model behind judge=implicit, and algorithm=dpo."""

    section: ClassVar[str] = "dpo"

    train: bool = True
    """False: `model.dpo` is a DPO model already, made from what `model.policy` names."""
    batch_size: int = 32
    """Pairs of one optimizer step."""
    max_length: int = 256
    """Longest prompt and response, in tokens, within model.context; pairs with a longer one
    are dropped and counted."""
    beta: float = number(0.1, above=0)
    """β, the strength of the tie to the SFT model."""
    loss: PairLoss = PairLoss.sigmoid
    """sigmoid, robust, hinge, or ipo."""
    label_smoothing: float = 0.0
    """Share of the pairs that are the wrong way round (loss=robust)."""
    pairs: PairSource = PairSource.dataset
    """dataset, or sampled."""
    prompts: int = number(2000, at_least=1)
    """Prompts that are continued twice (pairs=sampled)."""
    held_out: int = number(500, at_least=1)
    """Held-out pairs on which accuracy and margin are measured."""

    def __post_init__(self) -> None:
        """Check the numbers, and that they fit one another."""
        Training.__post_init__(self)
        share, robust = self.label_smoothing, self.loss is PairLoss.robust
        require(
            0 <= share < 0.5 and (robust or share == 0),
            "dpo.label_smoothing",
            share,
            "must lie in [0, 0.5), and be 0 unless dpo.loss=robust",
        )


@dataclass(slots=True, kw_only=True)
class FIGATraining(Training):
    """The training of FIGA, with the numbers of its authors' script."""

    section: ClassVar[str] = "algorithm.training"

    batch_size: int = number(128, at_least=1)
    """Pairs of one optimizer step."""
    epochs: float = number(5.0, above=0)
    """Passes over the pairs."""
    max_length: int = number(512, at_least=8, note="tokens")
    """Longest prompt and answer, in tokens, within model.context; pairs with a longer one are left
    out and counted."""
    warmup_fraction: float = number(0.0, at_least=0, below=1)
    """Share of the steps in which the learning rate rises from 0."""
    schedule: Schedule = Schedule.constant
    """Course of the learning rate: constant, linear, or cosine (both to 0)."""


@dataclass(slots=True, kw_only=True)
class FIGA(Procedure):
    """Stop after FIGA (Guo et al. 2024), which learns from revisions without rollouts: tokens that
    were put in become likelier, tokens that were taken out unlikelier, the others are only read.

    The loss of a batch is (α Σ_{E+} NLL − β Σ_{E−} NLL) / (|E+| + |E−|). E+ are the tokens that
    revisions added or substituted, and their end token; E− those deleted or substituted in the
    rejected answers, as far as the gate lets them pass.
    """

    ends_with: ClassVar[str] = "figa"

    gate: float | None = number(0.6, above=0, null="no gate", note="nats")
    """E− has only tokens that the model still likes: with a negative log-likelihood of at most
    this, under the weights of the step (probability 0.549 or more). It is in the authors' code, and
    not in their paper. null: all that were taken out."""
    alpha: float = number(1.0, above=0)
    """Weight of what was put in."""
    beta: float = number(0.5, at_least=0)
    """Weight of what was taken out."""
    training: FIGATraining = field(default_factory=FIGATraining)


@dataclass(slots=True, kw_only=True)
class Oracle(Settings):
    """The classifier that evaluates policies and that no policy is trained on."""

    section: ClassVar[str] = "oracle"

    enabled: bool = True
    """Train and use it; needs labels or pairs, as the reward model does."""
    buckets: int = number(2**18, at_least=1024)
    """Size of the hash table of n-grams."""
    epochs: int = number(6, at_least=1)
    """Passes over the oracle split."""
    learning_rate: float = number(0.02, above=0)
    """Step size of Adam."""
    batch_size: int = number(64, at_least=1)
    """Reviews, or pairs, of one step."""
    l2: float = number(1e-5, at_least=0)
    """Weight decay towards 0."""


@dataclass(slots=True, kw_only=True)
class Evaluation(Settings):
    """What is measured after training, on prompts that nothing was trained on."""

    section: ClassVar[str] = "evaluation"

    prompts: int = number(256, at_least=2)
    """Held-out prompts, each continued once by the policy and once by the SFT model."""
    every: int | None = number(None, at_least=1, null="only at the end", note="step")
    """Steps between evaluations on these prompts during training, of which the best policy is kept
    in policy_best/; null: none."""
    stream: int = 0
    """Names the random numbers of the evaluation; the same for every `seed`, so runs are paired."""
    perplexity: bool = added(False)
    """Whether perplexities are measured too: of the data's answers behind these prompts under the
    policy, and of the policy's responses under the SFT model; and, on the way, their length."""


@dataclass(slots=True, kw_only=True)
class Sweep(Settings):
    """What a sweep is for, and how it treats cells that are there; not part of any key."""

    section: ClassVar[str] = "sweep"

    recompute: bool = False
    """Run cells again that are kept in experiments_dir; what lies in runs_dir is still reused."""
    objective: Any = None
    """What Hydra's sweeper is told of a cell: the name of a number of results.json, such as
    policy/oracle, or a list of names; NaN for a cell that failed."""

    def __post_init__(self) -> None:
        """Check the kind of the objective; its names are known to `sweeps.objective`."""
        several = self.objective if isinstance(self.objective, list) else [self.objective]
        require(
            self.objective is None
            or (bool(several) and all(isinstance(name, str) and name for name in several)),
            "sweep.objective",
            self.objective,
            "must be null, the name of a number of results.json, or a list of such names",
        )


@dataclass(slots=True, kw_only=True)
class Tuning(Settings):
    """Where `tokencredit tune` looks for a method's numbers; not part of any key."""

    section: ClassVar[str] = "tuning"

    grid: dict[str, list[float]] = field(default_factory=dict)
    """Values to try, by dotted key: at most two keys of algorithm or reward_scheme, at most six
    points in all; empty: the method is not tuned."""
    follows: str | None = None
    """The method whose point this one takes, as a control does; null: none."""
    kl: float = number(15.0, above=0, note="nats a response")
    """Largest mean KL on held-out prompts with which a point can be chosen."""

    def __post_init__(self) -> None:
        """Check the shape of the grid, and that it is not given beside another method's point."""
        Settings.__post_init__(self)
        keys, points = list(self.grid), prod(map(len, self.grid.values()))
        require(len(keys) <= MOST_KEYS, "tuning.grid", keys, f"has more than {MOST_KEYS} keys")
        for key, values in self.grid.items():
            require(
                key.startswith(("algorithm.", "reward_scheme.")),
                "tuning.grid",
                key,
                "must be a key of algorithm or reward_scheme, as algorithm.optimizer.learning_rate",
            )
            rising = all(0 < low < high < inf for low, high in pairwise(values))
            require(
                len(values) > 1 and rising,
                f"tuning.grid.{key}",
                list(values),
                "must be at least two numbers > 0 that rise, so that it can be extended",
            )
        require(
            points <= MOST_POINTS,
            "tuning.grid",
            {key: list(values) for key, values in self.grid.items()},
            f"has {points} points, more than the {MOST_POINTS} that each method may have",
        )
        require(
            not (self.grid and self.follows),
            "tuning.follows",
            self.follows,
            "cannot be set beside tuning.grid: a method has a grid, or takes another's point",
        )


@dataclass(slots=True, kw_only=True)
class Run(Settings):
    """Cadences and names; nothing in here changes a result, so nothing is part of the key."""

    section: ClassVar[str] = "run"

    save_every: int = number(25, at_least=1, note="step")
    """Steps between checkpoints."""
    save_minutes: float | None = number(10.0, above=0, null="never", note="minutes")
    """Minutes between saves of a stage with a borrowed trainer (SFT, reward model, DPO), from which
    it goes on after an interruption; null: never, so that it starts over."""
    stop_seconds: float | None = number(600.0, above=0, null="as long as it takes")
    """Longest time that a run or stage may take to save when a signal asks it to stop; then it ends
    without, and goes on from the save before. null: as long as it takes."""
    sample_every: int = number(20, at_least=1, note="step")
    """Steps between saved samples."""
    samples: int = number(8, at_least=0)
    """Responses saved each time."""
    resume_inexact: bool = False
    """Continue under other threads, processes, or sharding than run or stage began with; the result
    is marked."""
    function_seconds: float | None = number(600.0, above=0, null="as long as it likes")
    """Longest time that one call of your own function or scheme may take; null: as long as it
    likes."""
    figures: bool = True
    """Draw figures and the HTML report at the end."""
    primary: str | None = added(None)
    """The one claim of the catalogue that the experiment is run to decide, PAPER/CLAIM, named here
    before it is run; its other claims are corrected for their number. null: none."""
    experiment: str | None = None
    """Filled in: the experiment's name."""
    scale: str | None = None
    """Filled in: the experiment's scale; null: a run of no experiment."""
    scheme: str = ""
    """Filled in: the reward scheme's name."""
    job_type: str | None = None
    """Filled in: what kind of run it is for W&B, such as pilot; null: told by its last stage."""
    group: str | None = None
    """Filled in: the W&B group that the cells of a sweep share; null: a run of no sweep."""
