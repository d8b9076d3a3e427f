"""The reward model of a run's preference pairs: answers preferred by people, or by a revision."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar

from tokencredit.console import say
from tokencredit.data.pairs import Pair, read_pairs, usable
from tokencredit.data.token_ids import TokenIds
from tokencredit.errors import require
from tokencredit.judges.bradley_terry import BradleyTerryJudge, Preference
from tokencredit.models.adapters.lora import adapted
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.trunk import check_readable
from tokencredit.models.loading.weights import load_classifier
from tokencredit.models.tokens.padding import ensure_pad, fit_embeddings
from tokencredit.settings import PairSource
from tokencredit.stages.judge_stage import StartingStage
from tokencredit.stages.preference_model import fit_in_order, measured, score_pairs
from tokencredit.stages.revised_pairs import read_revised, revised_parents
from tokencredit.stages.revisions import NO_PAIRS, SPLITS
from tokencredit.stages.sampled_pairs import SampledPairsStage, load_sampled
from tokencredit.stages.stage import Stage


class BradleyTerryStage(StartingStage):
    """A sequence classifier with one output, adapters merged. Its folder has evaluation.json and
    evaluation.png of held-out pairs beside it; the accuracy is the share that it orders rightly.
    """

    name: ClassVar[str] = "bradley_terry"
    version: ClassVar[int] = 1

    @property
    def settings(self) -> BradleyTerryJudge:
        """The judge whose stage it is."""
        return self.judge_as(BradleyTerryJudge)

    def parents(self) -> Mapping[str, Stage]:
        """What it starts from, and what has made its pairs."""
        if self.settings.pairs is Preference.revised:
            return {**super().parents(), **revised_parents(self.context)}
        if self._sampled():
            return {**super().parents(), "sampled_pairs": SampledPairsStage(self.context)}
        return super().parents()

    def inputs(self) -> Mapping[str, object]:
        """Settings and start; and which pairs, where no stage before it says so."""
        given = {**super().inputs(), "pairs": self.settings.pairs}
        if self.settings.pairs is Preference.revised:
            return given
        reviser, corpus = self.context.config.reviser, self.context.corpus
        given |= {"limit": reviser.limit, "held_out": reviser.held_out}
        if self._sampled():
            return given
        corpus.check_pairs("reward", NO_PAIRS)  # said before anything is trained
        prints = corpus.fingerprints
        return given | {
            "data": prints["reward"],
            "eval": prints["eval"],
            "format": self.context.config.dataset.format,
        }

    def train(self, out: Path) -> Mapping[str, object]:
        """Learn from the pairs, and measure on those that were held out."""
        config, place = self.context.config, self.place()
        tokenizer = load_tokenizer(place.where, place.revision)
        ensure_pad(tokenizer)
        ids = TokenIds(tokenizer, config.dataset.special_tokens)
        learnt, noted = self.pairs("revisions", ids)
        held_out, held_out_noted = self.pairs("held_out", ids)
        require(
            bool(learnt),
            "judge.training.max_length",
            self.longest(),
            f"no pair is left to learn from ({noted}); raise it and model.context, or use other "
            "pairs",
        )
        quantized = config.model.quantized(config.hardware.device.value)
        model = load_classifier(place, config.model.dtype, self.longest(), 1, quantized)
        check_readable(model)
        fit_embeddings(model, tokenizer)
        tokenizer.padding_side = "right"
        adapters = adapted(model, config.model.lora, "SEQ_CLS")
        model, figures = fit_in_order(self.supervised(out), adapters, tokenizer, learnt, noted)
        if held_out:
            scores = score_pairs(model, tokenizer, held_out)
            figures |= measured(self.name, scores, held_out_noted, out)
        else:
            say("bradley terry: no pair is held out, so its accuracy is not known")
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return figures | {"held_out": len(held_out)}

    def pairs(self, name: str, ids: TokenIds) -> tuple[list[Pair], dict[str, int]]:
        """The pairs to learn from ("revisions") or to measure on ("held_out"), and how many were
        left out, and for what; never more than the reviser reads, and none is cut."""
        if self.settings.pairs is Preference.revised:
            return read_revised(self, name, ids, self.longest())
        reviser, corpus = self.context.config.reviser, self.context.corpus
        most = reviser.limit if name == "revisions" else reviser.held_out
        if self._sampled():
            found = load_sampled(self.made("sampled_pairs"), SPLITS[name])[:most]
            kept, noted = usable(found, self.longest())
        elif name == "revisions":
            kept, noted = read_pairs(corpus.pairs("reward", NO_PAIRS)[:most], ids, self.longest())
        else:
            paired = (record for record in corpus.parts["eval"] if record.rejected is not None)
            kept, noted = read_pairs(list(islice(paired, most)), ids, self.longest())
        if noted["too long"]:
            say(
                f"bradley terry: {noted['too long']} pairs ({name}) are left out, longer than "
                f"{self.longest()} tokens"
            )
        return kept, dict(noted)

    def _sampled(self) -> bool:
        return self.context.config.reviser.pairs is PairSource.sampled
