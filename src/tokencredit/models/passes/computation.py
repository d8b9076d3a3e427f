"""How a policy is computed; nothing that training changes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """Settings of the passes of policy, value function, and reference."""

    uses_values: bool = True
    """False: no value function is computed, and values are zero."""
    logits_memory: int = 256 << 20
    """Bytes of logits that a pass may keep for its backward pass."""
    narrow_format: torch.dtype | None = None
    """Number format of the trunks' matrix products, where it is not the weights'."""

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Within it, trunks compute in the narrow format."""
        if self.narrow_format is None:
            return nullcontext()
        return torch.autocast(device.type, dtype=self.narrow_format)

    def narrow(self, states: Float[torch.Tensor, "N d"]) -> Float[torch.Tensor, "N d"]:
        """States in the format in which a GPU multiplies them with the head; sums are float32."""
        if self.narrow_format is None or states.device.type == "cpu":
            return states
        return states.to(self.narrow_format)
