"""Who revises: a word list, a file, or a model that is asked, whose replies are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tokencredit.canonical import digest
from tokencredit.closing import Closing
from tokencredit.data.contents import text_of
from tokencredit.data.files import file_rows
from tokencredit.data.polar_words import PolarWords
from tokencredit.data.records import Unusable
from tokencredit.data.revisions import (
    REMINDER,
    Contest,
    Flaw,
    Revision,
    fitted,
    flaw_of,
    parse,
    request,
    request_text,
)
from tokencredit.data.token_ids import TokenIds
from tokencredit.endpoint.client import Endpoint
from tokencredit.endpoint.kept import ReplyFile, ask_all
from tokencredit.endpoint.messages import Reply
from tokencredit.endpoint.settings import without_user
from tokencredit.errors import UserError
from tokencredit.models.decoding.generation import generate
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.decoding.text_generator import TextGenerator
from tokencredit.models.passes.kernels import ready
from tokencredit.reviser_settings import Reviser
from tokencredit.rollout import Prompts
from tokencredit.streams import stream_key

TOO_LARGE: Final = 413
"""The status of a request that is longer than what a model reads."""
Done = Callable[[], None]
"""Called once for each reply."""


@dataclass(slots=True)
class Spent:
    """What the replies that were asked for cost, in tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: Reply) -> None:
        """Count one more reply."""
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


@dataclass(slots=True)
class Asked(Closing):
    """A model that revises; what it has replied is kept in `folder`, by the content asked."""

    settings: Reviser
    about: Mapping[str, object]
    """Model, and what else beside a request decides its reply."""
    folder: Path
    spent: Spent = field(default_factory=Spent)
    """Of the replies that were asked for now."""
    text: str = field(default_factory=request_text)
    _file: ReplyFile | None = None

    @property
    def file(self) -> ReplyFile:
        """The replies kept; opened, and held alone, from the first use on."""
        if self._file is None:
            self._file = ReplyFile(self.folder / f"{digest(self.about)}.jsonl")
        return self._file

    def key(self, text: str) -> str:
        """The hash of a request."""
        return digest({"about": self.about, "text": text})

    def unknown(self, contests: Sequence[Contest]) -> list[str]:
        """The requests to which there is no reply yet, each once."""
        texts = dict.fromkeys(request(contest, self.text) for contest in contests)
        return [text for text in texts if self.file.get(self.key(text)) is None]

    def revise(self, contests: Sequence[Contest], done: Done) -> list[Revision | Flaw]:
        """The revision of each pair, or what was wrong with the last reply.

        A model whose reply holds none is asked again, `reminders` times at most, and told so: the
        same request would have the same reply.
        """
        found: list[Revision | Flaw] = [Flaw.missing] * len(contests)
        left = list(range(len(contests)))
        for number in range(1, self.settings.reminders + 2):
            texts = [self._request(contests[index], number) for index in left]
            quiet = done if number == 1 else lambda: None
            for index, reply in zip(left, self._replies(texts, quiet), strict=True):
                found[index] = read(reply)
            left = [index for index in left if found[index] in AGAIN]
        return found

    def replied(self, contest: Contest) -> Reply | None:
        """The last reply on a pair that is kept; None where there is none."""
        numbers = range(self.settings.reminders + 1, 0, -1)
        keys = [self.key(self._request(contest, number)) for number in numbers]
        return next((reply for key in keys if (reply := self.file.get(key)) is not None), None)

    def _request(self, contest: Contest, number: int) -> str:
        """What is asked the first time, and then with a word that says so."""
        again = REMINDER.format(number=number) if number > 1 else ""
        return request(contest, self.text) + again

    def _replies(self, texts: Sequence[str], done: Done) -> list[Reply]:
        keys = [self.key(text) for text in texts]
        known = {key: reply for key in keys if (reply := self.file.get(key)) is not None}
        for key in keys:
            if key in known:
                done()
        pending = {k: text for k, text in zip(keys, texts, strict=True) if k not in known}
        fresh = self.ask(pending, done) if pending else {}
        for reply in fresh.values():
            self.spent.add(reply)
        return [(known | fresh)[key] for key in keys]

    @abstractmethod
    def ask(self, pending: Mapping[str, str], done: Done) -> dict[str, Reply]:
        """Ask these requests, keep each reply as it comes, and return them by key."""

    def close(self) -> None:
        """Let others have the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


AGAIN: Final = frozenset(
    {
        Flaw.no_begin,
        Flaw.no_end,
        Flaw.repeated,
        Flaw.reason_alone,
        Flaw.empty,
    }
)
"""Replies after which a model is asked again; one that was cut or refused would be so again."""


def read(reply: Reply) -> Revision | Flaw:
    """The revision that a reply holds, or why it holds none."""
    if reply.rejected is not None:
        return Flaw.too_long if reply.rejected == TOO_LARGE else Flaw.rejected
    return Flaw.refused if reply.refused else parse(reply.text, cut=reply.cut)


def about_endpoint(settings: Reviser) -> dict[str, object]:
    """What beside a request decides the reply of an endpoint."""
    own = settings.endpoint_settings()
    return {
        "base_url": without_user(own.base_url),
        "model": own.model,
        "temperature": own.temperature,
        "max_tokens": own.max_tokens,
    }


class FromEndpoint(Asked):
    """A model behind an endpoint."""

    def ask(self, pending: Mapping[str, str], done: Done) -> dict[str, Reply]:
        """Several requests at a time, as often as the settings allow."""
        endpoint = Endpoint(self.settings.endpoint_settings())
        try:
            return ask_all(pending, endpoint, self.file, self.settings.endpoint.concurrency, done)
        finally:
            endpoint.close()


@dataclass(slots=True)
class FromModel(Asked):
    """A chat model on this machine."""

    load: Callable[[], TextGenerator] | None = None
    context: int = 0
    """The most tokens of request and reply."""
    seed: int = 0

    def ask(self, pending: Mapping[str, str], done: Done) -> dict[str, Reply]:
        """A few requests at a time, those of similar length together."""
        assert self.load is not None
        generator = self.load()
        ready(generator.model)
        ids = TokenIds(generator.tokenizer)
        asked = {
            key: ids.converse([{"role": "user", "content": text}]).ids
            for key, text in pending.items()
        }
        found: dict[str, Reply] = {}
        most = self.context - self.settings.max_tokens
        for key, prompt in asked.items():
            if len(prompt) > most:
                found[key] = Reply("", rejected=TOO_LARGE, prompt_tokens=len(prompt))
                done()
        ordered = sorted(asked.keys() - found.keys(), key=lambda key: (len(asked[key]), key))
        for start in range(0, len(ordered), self.settings.chunk):
            keys = ordered[start : start + self.settings.chunk]
            replies = self._say(generator, [asked[key] for key in keys], keys)
            for key, reply in zip(keys, replies, strict=True):
                self.file.add(key, reply)
                found[key] = reply
                done()
        return found

    def _say(
        self, generator: TextGenerator, prompts: Sequence[list[int]], keys: Sequence[str]
    ) -> list[Reply]:
        """The replies to a few prompts; the noise of each is named by its key alone."""
        settings, count = self.settings, len(prompts)
        batch = Prompts.padded(
            prompts,
            max(generator.special.pad, 0),
            rows=[stream_key("revise", key) for key in keys],
            min_new=[0] * count,
            max_new=[settings.max_tokens] * count,
        ).to(generator.model.device)
        greedy = settings.temperature == 0
        sampling = Sampling(
            min_new_tokens=1,
            max_new_tokens=settings.max_tokens + 1,
            temperature=1.0 if greedy else settings.temperature,
            chunk=count,
        )
        stream = (self.seed, "revise")
        said = generate(generator.model, batch, sampling, generator.special, stream, greedy=greedy)
        texts, lengths = generator.texts(said), said.lengths.tolist()
        return [
            Reply(
                text,
                cut=not ended,
                prompt_tokens=len(prompt),
                completion_tokens=length,
            )
            for text, ended, prompt, length in zip(
                texts, said.finished.tolist(), prompts, lengths, strict=True
            )
        ]


def by_words(contests: Sequence[Contest], words: PolarWords) -> list[Revision | Flaw]:
    """Every rejected answer with its blaming words replaced; the pair's text decides what is
    drawn."""
    found: list[Revision | Flaw] = []
    for contest in contests:
        key = stream_key("revise", contest.prompt, contest.rejected)
        text = words.better(contest.rejected, key)
        found.append(Flaw.nothing if text == contest.rejected else Revision(text))
    return found


def read_revisions(path: Path) -> dict[tuple[str, str], Revision]:
    """The revisions in a file with the columns prompt, rejected, revised, and perhaps reason, by
    prompt and rejected answer; the last one counts where a pair comes twice.

    Raises `UserError` for a row without one of the three.
    """
    known: dict[tuple[str, str], Revision] = {}
    for number, row in enumerate(file_rows(path), start=1):
        missing = [name for name in ("prompt", "rejected", "revised") if name not in row]
        if missing:
            raise UserError(
                f"reviser.file = {str(path)!r}: row {number} has no column {', '.join(missing)}; "
                f"it has {', '.join(row) or 'none'}"
            )
        try:
            prompt, rejected, revised = (
                text_of(row[name], name) for name in ("prompt", "rejected", "revised")
            )
        except Unusable as reason:
            raise UserError(f"reviser.file = {str(path)!r}: row {number}: {reason}") from reason
        said = row.get("reason")
        known[prompt.strip(), rejected.strip()] = Revision(revised, str(said) if said else None)
    return known


def from_file(contests: Sequence[Contest], path: Path) -> list[Revision | Flaw]:
    """The revision of each pair that `read_revisions` finds in a file."""
    known = read_revisions(path)
    return [known.get((c.prompt.strip(), c.rejected.strip()), Flaw.missing) for c in contests]


def checked(contest: Contest, made: Revision | Flaw, most: float | None) -> Revision | Flaw:
    """The revision as it is kept, or why it is dropped.

    `most`: the largest edit ratio that passes; None for revisions that are no edits, of which only
    those that are empty or identical are dropped.
    """
    if isinstance(made, Flaw):
        return made
    whole = fitted(contest, made)
    flaw = flaw_of(contest, whole.text, 1.0 if most is None else most)
    if most is None and flaw not in {Flaw.empty, Flaw.identical}:
        return whole
    return whole if flaw is None else flaw
