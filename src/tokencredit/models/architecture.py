"""The sizes of a decoder that is made from nothing."""

from __future__ import annotations

from dataclasses import dataclass

from tokencredit.errors import require


@dataclass(slots=True, kw_only=True)
class Architecture:
    """Size of a Llama decoder that is trained from nothing (source=scratch)."""

    vocab_size: int = 4096
    """Entries of the byte-level BPE vocabulary, trained on the SFT split."""
    hidden_size: int = 192
    """Width of the residual stream."""
    layers: int = 4
    """Decoder layers."""
    heads: int = 6
    """Attention heads."""
    mlp_size: int = 512
    """Width of the gated MLP."""

    def __post_init__(self) -> None:
        """Check the sizes."""
        require(
            self.vocab_size >= 300,
            "model.architecture.vocab_size",
            self.vocab_size,
            "must be >= 300",
        )
        for name in ("hidden_size", "heads", "mlp_size"):
            value = getattr(self, name)
            require(value >= 1, f"model.architecture.{name}", value, "must be >= 1")
        require(self.layers >= 1, "model.architecture.layers", self.layers, "must be >= 1")
        require(
            self.hidden_size % (2 * self.heads) == 0,
            "model.architecture.hidden_size",
            self.hidden_size,
            f"must be a multiple of 2 x heads = {2 * self.heads}",
        )
