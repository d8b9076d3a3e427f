"""Direct preference optimisation of the SFT model on pairs, with TRL's DPOTrainer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch
from jaxtyping import Float

from tokencredit.console import say
from tokencredit.data.pairs import Pair, as_rollout, read_pairs, usable
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import UserError, require
from tokencredit.models.adapters.adapter import save_on
from tokencredit.models.adapters.lora import POLICY, lora_config
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.log_ratio import (
    LogRatio,
    adapter_of,
    as_it_is,
    check_same_kind,
    check_vocabularies,
)
from tokencredit.models.passes.computation import Computation
from tokencredit.models.tokens.padding import ensure_pad, fit_embeddings
from tokencredit.ops import masked_sum
from tokencredit.settings import DPO, PairSource
from tokencredit.stages.base_model import base_of
from tokencredit.stages.sampled_pairs import SampledPairsStage, load_sampled
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage
from tokencredit.stages.trainer import SupervisedRun, may_only_warm_up, seed_generators
from tokencredit.statistics.intervals import mean_ci, wilson
from tokencredit.store.finite import check_scores
from tokencredit.training_settings import Training

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


NO_PAIRS: Final = (
    "; or let the SFT model write the pairs, which the reward model orders (dpo.pairs=sampled)"
)


class DPOStage(Stage):
    """The DPO model: a plain folder, or an adapter of the SFT model with `model.lora.enabled`."""

    makes_policy: ClassVar[bool] = True
    name: ClassVar[str] = "dpo"
    version: ClassVar[int] = 1

    def revision(self) -> int:
        """Since version 2 adapters are drawn from `stage_seed`, and stages in which the learning
        rate only rises begin above 0; others do what they did before."""
        config = self.context.config
        if not config.dpo.train:
            return self.version
        return 2 if config.model.lora.enabled or self._may_only_warm_up() else self.version

    def _may_only_warm_up(self) -> bool:
        """Said without a tokenizer: a token has at least one byte, so a pair that has no more bytes
        than a sequence may have tokens is not left out."""
        settings, limit = self.context.config.dpo, self.longest()
        if settings.pairs is PairSource.sampled:
            return False  # their reward model has another key since then
        corpus = self.context.corpus

        def count() -> int:
            sizes = (
                len(f"{record.text}{record.rejected}".encode(errors="replace"))
                for record in corpus.pairs("reward", NO_PAIRS)
            )
            return sum(size <= limit for size in sizes)

        short = corpus.ask(f"pairs of reward within {limit} bytes", count)
        return may_only_warm_up(settings, short, 2 * limit)

    @property
    def training(self) -> Training | None:
        """Its section, unless a finished model is taken."""
        settings = self.context.config.dpo
        return settings if settings.train else None

    def parents(self) -> Mapping[str, Stage]:
        """What it starts from, and what it learns from where that is made here."""
        config = self.context.config
        parents: dict[str, Stage] = {"sft": SFTStage(self.context)}
        if not config.dpo.train:
            return {**parents, **base_of(self.context, config.model.dpo_source()).parents()}
        if config.dpo.pairs is PairSource.sampled:
            parents["sampled_pairs"] = SampledPairsStage(self.context)
        return parents

    def inputs(self) -> Mapping[str, object]:
        """Settings and pairs; a finished model's content."""
        config, corpus = self.context.config, self.context.corpus
        if not config.dpo.train:
            base = base_of(self.context, config.model.dpo_source()).identity()
            kept = {"base": base, "dtype": config.model.dtype, "train": False}
            return {**kept, "beta": config.dpo.beta}  # the judge multiplies by it
        given: dict[str, object] = {
            "dpo": config.dpo,
            "dtype": config.model.dtype,
            "lora": config.model.lora,
            "longest": self.longest(),
            "stage_seed": config.stage_seed,
            **config.model.quantization_inputs(),
        }
        if config.dpo.pairs is PairSource.sampled:
            return given
        for split in ("reward", "eval"):
            corpus.check_pairs(split, NO_PAIRS)  # said before anything is trained
        require(
            not corpus.margins,
            "dataset.margin_column",
            config.dataset.margin_column,
            f"the pairs have margins, which no loss of TRL's DPO takes (dpo.loss = "
            f"{config.dpo.loss.value}); leave them unread with dataset.margin_column=null",
        )
        prints = corpus.fingerprints
        return given | {
            "data": prints["reward"],
            "eval": prints["eval"],
            "format": config.dataset.format,
        }

    def run(self, out: Path) -> Mapping[str, object]:
        """Write the model, or its adapter, and the tokenizer."""
        sft = self.made("sft")
        if not self.context.config.dpo.train:
            return self._take_over(sft, out)
        tokenizer = load_tokenizer(sft)
        pairs, held_out, counts = self.pairs(tokenizer)
        model, ratio, figures = self._train(sft, tokenizer, pairs, out)
        save_on(model, out, sft)
        tokenizer.save_pretrained(out)
        if held_out:
            found = margins(ratio, held_out, self.context.config.dpo.beta, model.device)
            check_scores("dpo", found)
            figures |= judged_pairs(found)
        return figures | {"pairs": len(pairs), "pairs_noted": dict(counts)}

    def longest(self) -> int:
        """The most tokens of a pair."""
        return min(self.context.config.dpo.max_length, self.context.config.model.context)

    def _take_over(self, sft: Path, out: Path) -> dict[str, object]:
        config = self.context.config
        base = base_of(self.context, config.model.dpo_source()).place()
        tokenizer = load_tokenizer(base.where, base.revision)
        model = load_causal(base, config.model.dtype)
        ensure_pad(tokenizer)
        fit_embeddings(model, tokenizer)
        check_same_kind(model, load_causal(sft, config.model.dtype))
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        check_vocabularies(out, sft)
        return {"steps": 0}

    def pairs(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[Pair], list[Pair], Counter[str]]:
        """Pairs to learn from, held-out pairs, and what was noted of the former (`read_pairs`)."""
        settings, corpus, limit = self.context.config.dpo, self.context.corpus, self.longest()
        ids = TokenIds(tokenizer, self.context.config.dataset.special_tokens)
        if settings.pairs is PairSource.sampled:
            folder = self.made("sampled_pairs")
            pairs, dropped = usable(load_sampled(folder, "train"), limit)
            held_out, _ = usable(load_sampled(folder, "held_out"), limit)
        else:
            pairs, dropped = read_pairs(corpus.pairs("reward"), ids, limit)
            records = corpus.pairs("eval")[: settings.held_out]
            held_out, _ = read_pairs(records, ids, limit)
        if not pairs:
            raise UserError(
                f"dpo.max_length = {limit}: no pair is left ({dict(dropped)}); raise it and "
                "model.context, or use other pairs"
            )
        if dropped["too long"]:
            say(f"dpo: {dropped['too long']} pairs are left out, longer than {limit} tokens")
        return pairs, held_out, dropped

    def _train(
        self, sft: Path, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], out: Path
    ) -> tuple[PreTrainedModel, LogRatio, dict[str, object]]:
        config = self.context.config
        settings, dtype = config.dpo, config.model.dtype
        quantized = config.model.quantized(config.hardware.device.value)
        model = load_causal(sft, dtype, context=self.longest(), quantized=quantized)
        adapters = lora_config(config.model.lora, "CAUSAL_LM")
        seed_generators(config.stage_seed)
        frozen = None if adapters else load_causal(sft, dtype)
        reference, loss = frozen if adapters is None else adapters, loss_settings(settings)
        run = SupervisedRun.of(config, "dpo", out, config.stage_seed)
        trained, figures = run.fit(
            run.steps(len(pairs), sum(pair.tokens for pair in pairs) / len(pairs)),
            lambda common: pair_trainer(model, reference, tokenizer, pairs, common | loss),
        )
        if frozen is None:
            opened = adapter_of(trained, POLICY), adapter_of(trained, None)
        else:
            opened = as_it_is(trained), as_it_is(frozen)
        memory = Computation(logits_memory=config.hardware.logits_memory_mb << 20)
        ratio = LogRatio(*opened, memory, int(tokenizer.eos_token_id))
        return trained, ratio, figures


def loss_settings(settings: DPO) -> dict[str, Any]:
    """What TRL's DPOConfig calls the loss."""
    return {
        "beta": settings.beta,
        "loss_type": [settings.loss.value],
        "label_smoothing": settings.label_smoothing,
    }


def pair_trainer(
    model: PreTrainedModel,
    reference: PreTrainedModel | LoraConfig,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    settings: dict[str, Any],
) -> Any:
    """TRL's DPOTrainer of `model`, on pairs whose ids stay as they are.

    `reference` is the frozen model that it is compared with, or else the adapters that it is to
    train, without which it is its own reference. TRL would load the reference anew from the place
    that the model's configuration names if it were not given, and would make ids of its own from
    texts.
    """
    import datasets
    from trl import DPOConfig, DPOTrainer

    class OnIds(DPOTrainer):  # type: ignore[misc]
        """TRL's trainer, its loss and collator, on a data set that holds token ids already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    datasets.disable_progress_bars()
    whole = hasattr(reference, "forward")
    return OnIds(
        model=model,
        ref_model=reference if whole else None,
        peft_config=None if whole else reference,
        args=DPOConfig(
            **settings,
            gradient_checkpointing=False,
            max_length=None,
            disable_dropout=True,
            precompute_ref_log_probs=False,
        ),
        train_dataset=datasets.Dataset.from_list([pair.columns() for pair in pairs]),
        processing_class=tokenizer,
    )


def margins(
    ratio: LogRatio, pairs: Sequence[Pair], beta: float, device: torch.device | str = "cpu"
) -> Float[torch.Tensor, "N"]:
    """β Σρ of the chosen response less that of the rejected one: the logit of DPO's loss."""
    prompts = [pair.prompt_ids for pair in pairs]
    sums = []
    for responses in ([p.chosen_ids for p in pairs], [p.rejected_ids for p in pairs]):
        rollout = as_rollout(prompts, responses, ratio.filler).to(device)
        sums.append(masked_sum(ratio(rollout), rollout.response_mask).double().cpu())
    return beta * (sums[0] - sums[1])


def judged_pairs(found: Float[torch.Tensor, "N"]) -> dict[str, object]:
    """Accuracy, margin, and loss on held-out pairs, the first two with 95 % intervals.

    That of the accuracy is Wilson's, that of the margin Student's.
    """
    right = float(((found > 0).double() + 0.5 * (found == 0)).mean())
    low, high = wilson(right, len(found))
    margin = mean_ci(found.tolist())
    return {
        "held_out": len(found),
        "accuracy": right,
        "accuracy_low": low,
        "accuracy_high": high,
        "margin": margin.mean,
        "margin_low": margin.low,
        "margin_high": margin.high,
        "held_out_loss": float(-torch.nn.functional.logsigmoid(found).mean()),
    }
