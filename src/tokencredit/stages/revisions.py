"""Rejected answers with the fewest edits that take away why they lost, as a reviser makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

from tokencredit.canonical import digest, file_sha256
from tokencredit.closing import Closing
from tokencredit.console import say
from tokencredit.data.polar_words import PolarWords, read_words, shipped_list, shipped_words
from tokencredit.data.revisions import (
    Contest,
    Flaw,
    Revision,
    contest_of,
    request_text,
    row_of,
    text_edit_ratio,
)
from tokencredit.endpoint.messages import price
from tokencredit.errors import UserError, require
from tokencredit.models.decoding.text_generator import TextGenerator
from tokencredit.models.loading.model import load_tokenizer
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.tokens.ends import special_ids
from tokencredit.reviser_settings import Backend
from tokencredit.settings import PairSource
from tokencredit.stages.base_model import Base
from tokencredit.stages.revisers import (
    Asked,
    FromEndpoint,
    FromModel,
    about_endpoint,
    by_words,
    checked,
    from_file,
)
from tokencredit.stages.sampled_pairs import SampledPairsStage
from tokencredit.stages.stage import Stage
from tokencredit.store.files import reading, write_rows
from tokencredit.store.jsonl import read_jsonl
from tokencredit.tracking.progress import Progress

SPLITS: Final = {"revisions": "train", "held_out": "held_out"}
"""The files that are written, and the file of sampled pairs that each is made of."""
NO_PAIRS: Final = "; or let the SFT model write the pairs (reviser.pairs=sampled)"
REPLIES: Final = "replies"
"""The folder of the store that keeps what models replied."""
BINS: Final = 10
"""Of the histogram of edit ratios."""


@dataclass(slots=True)
class Revising(Closing):
    """A reviser that is ready, and what it has asked."""

    make: Callable[[Sequence[Contest], Callable[[], None]], list[Revision | Flaw]]
    most: float | None
    """The largest edit ratio that passes; None: any."""
    asked: Asked | None = None
    """The model that is asked, where one is."""
    prices: tuple[float, float] | None = None

    def revise(self, contests: Sequence[Contest], label: str) -> list[Revision | Flaw]:
        """The revision of each pair, or why it is dropped; progress is shown under `label`."""
        finished = 0
        with Progress(max(len(contests), 1), 0, label) as bar:

            def done() -> None:
                nonlocal finished
                bar.update(finished, {})
                finished += 1

            made = self.make(contests, done)
        return [checked(c, each, self.most) for c, each in zip(contests, made, strict=True)]

    def replied(self, contest: Contest) -> str:
        """What the model that is asked has said of a pair at last; empty where none is asked."""
        reply = None if self.asked is None else self.asked.replied(contest)
        return "" if reply is None else reply.text

    def cost(self) -> dict[str, object]:
        """Requests and tokens that were asked for now, and their price where it is known."""
        if self.asked is None:
            return {}
        spent = self.asked.spent
        paid = price(spent.prompt_tokens, spent.completion_tokens, self.prices)
        return {
            "requests": spent.requests,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            **({} if paid is None else {"price": paid}),
        }

    def close(self) -> None:
        """Let others ask the same model."""
        if self.asked is not None:
            self.asked.close()


class RevisionsStage(Stage):
    """revisions.jsonl and held_out.jsonl: the pairs whose revisions passed, one a line."""

    name: ClassVar[str] = "revisions"
    version: ClassVar[int] = 1

    def parents(self) -> Mapping[str, Stage]:
        """The sampled pairs, or a model that must be made before it can revise."""
        parents: dict[str, Stage] = {}
        if self.context.config.reviser.pairs is PairSource.sampled:
            parents["sampled_pairs"] = SampledPairsStage(self.context)
        if self.context.config.reviser.backend is Backend.local:
            parents |= self._base().parents()
        return parents

    def inputs(self) -> Mapping[str, object]:
        """The backend, what of the settings it reads, and the pairs."""
        settings, corpus = self.context.config.reviser, self.context.corpus
        given: dict[str, object] = {
            "backend": settings.backend,
            "pairs": settings.pairs,
            "limit": settings.limit,
            "held_out": settings.held_out,
            **self._of_backend(),
        }
        if settings.backend is not Backend.chosen:
            given["max_edit_ratio"] = settings.max_edit_ratio
        if settings.pairs is PairSource.dataset:
            corpus.check_pairs("reward", NO_PAIRS)  # said before anything is revised
            prints = corpus.fingerprints
            given |= {
                "data": prints["reward"],
                "eval": prints["eval"],
                "format": self.context.config.dataset.format,
            }
        return given

    def run(self, out: Path) -> Mapping[str, object]:
        """Revise, drop what is no revision, and count why.

        Raises `UserError` where nothing is left to learn from; replies of a model are kept.
        """
        figures: dict[str, object] = {}
        with self.open() as reviser:
            for name in SPLITS:
                contests = self.contests(name)
                found = reviser.revise(contests, name)
                rows = (
                    row_of(contest, made)
                    for contest, made in zip(contests, found, strict=True)
                    if isinstance(made, Revision)
                )
                write_rows(out / f"{name}.jsonl", rows)
                counts = counted(contests, found)
                figures |= {f"{name}/{key}": value for key, value in counts.items()}
                say(f"{name}: {counts['kept']} of {counts['pairs']} kept, {counts['dropped']}")
            figures |= reviser.cost()
        if not figures["revisions/kept"]:
            raise UserError(
                f"reviser.backend = {self.context.config.reviser.backend.value}: no revision is "
                f"left of {figures['revisions/pairs']} pairs ({figures['revisions/dropped']}); "
                "look at some with `tokencredit revise`, then change the backend or "
                "reviser.max_edit_ratio"
            )
        return figures

    def contests(self, name: str) -> list[Contest]:
        """The pairs of one file, in the order of the data; `held_out` only measures."""
        settings, corpus = self.context.config.reviser, self.context.corpus
        most = settings.limit if name == "revisions" else settings.held_out
        if settings.pairs is PairSource.sampled:
            path = self.made("sampled_pairs") / f"{SPLITS[name]}.jsonl"
            with reading(path):
                return [_sampled(row) for row in read_jsonl(path)[:most]]
        if name == "revisions":
            return [contest_of(record) for record in corpus.pairs("reward", NO_PAIRS)[:most]]
        paired = (record for record in corpus.parts["eval"] if record.rejected is not None)
        return [contest_of(record) for record in islice(paired, most)]

    def open(self) -> Revising:
        """The reviser of the configuration."""
        settings = self.context.config.reviser
        most = None if settings.backend is Backend.chosen else settings.max_edit_ratio
        if settings.backend is Backend.chosen:
            return Revising(lambda contests, _: [Revision(c.chosen) for c in contests], most)
        if settings.backend is Backend.lexical:
            words = self._words()
            return Revising(lambda contests, _: by_words(contests, words), most)
        if settings.backend is Backend.file:
            path = _existing("reviser.file", settings.file)
            return Revising(lambda contests, _: from_file(contests, path), most)
        asked = self._asked()
        return Revising(asked.revise, most, asked, settings.endpoint.prices)

    def _asked(self) -> Asked:
        config, folder = self.context.config, self.context.store.root / REPLIES
        settings = config.reviser
        if settings.backend is Backend.endpoint:
            return FromEndpoint(settings, about_endpoint(settings), folder)
        return FromModel(
            settings,
            self._about_local(),
            folder,
            load=self._load,
            context=settings.context,
            seed=config.stage_seed,
        )

    def _of_backend(self) -> dict[str, object]:
        """What beside the pairs decides the revisions of this backend."""
        settings = self.context.config.reviser
        if settings.backend is Backend.lexical:
            self._words()  # a list that cannot be used is an error before anything runs
            return {"words": file_sha256(_list_of(settings.words))}
        if settings.backend is Backend.file:
            return {"file": file_sha256(_existing("reviser.file", settings.file))}
        if settings.backend is Backend.chosen:
            return {}
        local = settings.backend is Backend.local
        return {
            "request": digest(request_text()),
            "reminders": settings.reminders,
            "model": self._about_local() if local else about_endpoint(settings),
        }

    def _words(self) -> PolarWords:
        words = self.context.config.reviser.words
        return shipped_words() if words is None else read_words(_list_of(words))

    def _base(self) -> Base:
        return Base(self.context, self.context.config.reviser.local)

    def _about_local(self) -> dict[str, object]:
        """What beside a request decides the reply of a model on this machine."""
        config, base = self.context.config, self._base()
        settings = config.reviser
        made = base.parents()
        return {
            "local": made["base"].key if made else base.identity(),
            "dtype": config.model.dtype,
            "context": settings.context,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            **({"stage_seed": config.stage_seed} if settings.temperature else {}),
        }

    def _load(self) -> TextGenerator:
        config = self.context.config
        place = self._base().place()
        tokenizer = load_tokenizer(place.where, place.revision)
        model = load_causal(place, config.model.dtype, context=config.reviser.context)
        model = model.eval().to(config.hardware.device.value)
        return TextGenerator(model, tokenizer, special_ids(tokenizer, model))


def counted(contests: Sequence[Contest], found: Sequence[Revision | Flaw]) -> dict[str, object]:
    """How many pairs there were, how many were kept, how many were dropped for what, and the
    histogram of the edit ratios of those that were kept."""
    ratios = [
        text_edit_ratio(contest.rejected, made.text)
        for contest, made in zip(contests, found, strict=True)
        if isinstance(made, Revision)
    ]
    bins = Counter(min(int(ratio * BINS), BINS - 1) for ratio in ratios)
    return {
        "pairs": len(contests),
        "kept": len(ratios),
        "dropped": dict(Counter(made.value for made in found if isinstance(made, Flaw))),
        "edit_ratios": {f"{n / BINS:.1f}-{(n + 1) / BINS:.1f}": bins[n] for n in range(BINS)},
        "edit_ratio": sum(ratios) / len(ratios) if ratios else 0.0,
    }


def _sampled(row: Mapping[str, object]) -> Contest:
    """The pair in a line of the sampled pairs."""
    return Contest(
        row=int(str(row["row"])),
        prompt=str(row["prompt"]),
        chosen=str(row["chosen"]),
        rejected=str(row["rejected"]),
    )


def _list_of(words: str | None) -> Path:
    return shipped_list() if words is None else _existing("reviser.words", words)


def _existing(key: str, name: str | None) -> Path:
    """The file of that name; `UserError` where there is none."""
    path = Path(name or "").expanduser()
    require(path.is_file(), key, name, "there is no such file; give the path of one")
    return path
