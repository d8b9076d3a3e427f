"""What kind of value function there is, and what it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tokencredit.errors import require


class ValueKind(str, Enum):
    """Where the value function gets its hidden states from."""

    shared = "shared"
    """The policy's own: one pass for both, and the value loss trains the policy's trunk too."""
    separate = "separate"
    """A second model with weights of its own."""
    adapter = "adapter"
    """The policy's weights under a second LoRA adapter (with model.lora.enabled)."""
    none = "none"
    """No value function: for advantage schemes that need no estimate, such as own."""


class ValueInit(str, Enum):
    """What a separate value model starts from."""

    sft = "sft"
    """The model that the policy starts from."""
    reward_model = "reward_model"
    """The trained reward model."""
    judge = "judge"
    """The model that the judge's own stage has trained (judge=discriminator, bradley_terry)."""


class ValueHead(str, Enum):
    """What the layer from hidden states to values starts from."""

    fresh = "fresh"
    """Zero: all values are 0 at first."""
    keep = "keep"
    """The reward model's own: values are its scores of unfinished responses at first."""


@dataclass(slots=True, kw_only=True)
class Value:
    """The value function of algorithms that have one."""

    kind: ValueKind = ValueKind.shared
    """shared, separate, adapter, or none (with an advantage_scheme that needs no estimate)."""
    init: ValueInit = ValueInit.sft
    """sft; or reward_model, or judge (with kind=separate)."""
    head: ValueHead = ValueHead.fresh
    """fresh, or keep (with init=reward_model)."""

    def __post_init__(self) -> None:
        """Check that the parts fit each other."""
        require(
            self.init is ValueInit.sft or self.kind is ValueKind.separate,
            "model.value.init",
            self.init.value,
            f"needs weights of its own, but model.value.kind={self.kind.value} has the policy's; "
            "use model.value.kind=separate",
        )
        require(
            self.head is ValueHead.fresh or self.init is ValueInit.reward_model,
            "model.value.head",
            self.head.value,
            "is the reward model's head; use model.value.init=reward_model",
        )
