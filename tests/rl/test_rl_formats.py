"""Number formats of what is trained, on one process: what is refused, and what values are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from case_plans import planned, refusal
from tokencredit.models.policy import ValueHead

NARROW = "model.dtype=bfloat16"
GPU = "hardware.device=cuda"


def test_weights_without_float32_copies_are_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, NARROW)
    assert said.startswith("model.dtype = 'bfloat16': steps smaller than 1/256 of a weight would")
    assert "model.autocast=bfloat16" in said and "hardware.sharding=zero1" in said


@pytest.mark.parametrize("kept", ["model.lora.enabled=true", "hardware=cpu_zero3"])
def test_adapters_and_deepspeed_keep_them(tmp_path: Path, kept: str) -> None:
    assert planned(tmp_path, NARROW, kept)


@pytest.mark.parametrize("key", ["model.autocast", "model.dtype"])
def test_a_gpu_that_does_not_multiply_it_is_refused(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    said = refusal(tmp_path, f"{key}=bfloat16", GPU)
    assert said.startswith(f"{key} = 'bfloat16': this GPU does not multiply it; use ")


def test_values_are_float32_at_least() -> None:
    """1 + 2^-9 is 1 in bfloat16."""
    head = ValueHead(2, 1).bfloat16()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 2.0**-9]]))
        head.bias.zero_()
    assert head(torch.ones(2, dtype=torch.bfloat16)).item() == 1 + 2.0**-9
    assert head.double()(torch.ones(2)).dtype is torch.float64
