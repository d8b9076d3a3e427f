"""The sizes of a decoder that is made from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tokencredit.errors import require
from tokencredit.fields import Settings, number


@dataclass(slots=True, kw_only=True)
class Architecture(Settings):
    """Size of a Llama decoder that is trained from nothing (source=scratch)."""

    section: ClassVar[str] = "model.architecture"

    vocab_size: int = number(4096, at_least=300)
    """Entries of the byte-level BPE vocabulary, trained on the SFT split."""
    hidden_size: int = number(192, at_least=1)
    """Width of the residual stream."""
    layers: int = number(4, at_least=1)
    """Decoder layers."""
    heads: int = number(6, at_least=1)
    """Attention heads."""
    mlp_size: int = number(512, at_least=1)
    """Width of the gated MLP."""

    def __post_init__(self) -> None:
        """Check the sizes, and that they fit one another."""
        Settings.__post_init__(self)
        require(
            self.hidden_size % (2 * self.heads) == 0,
            "model.architecture.hidden_size",
            self.hidden_size,
            f"must be a multiple of 2 x heads = {2 * self.heads}",
        )
