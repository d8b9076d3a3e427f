"""Loading in parts: each process's numbers are those of the whole model, wherever parts begin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import builders
from tokencredit.errors import UserError
from tokencredit.models.loading.model import Dtype
from tokencredit.models.loading.parts import load_causal_parts
from tokencredit.models.loading.weights import load_causal

Read = Callable[[int, int], torch.Tensor]
CONTEXT = 32


@dataclass
class Pieces:
    """Reads a tensor as so many processes would, and joins what they have."""

    processes: int
    largest: int = 0
    """Most numbers that one of them read at a time."""
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def part(self, shape: tuple[int, ...], dtype: torch.dtype, read: Read) -> torch.nn.Parameter:
        """All parts, one after another."""
        count = torch.Size(shape).numel()
        size = -(-count // self.processes)
        places = [(start, min(start + size, count)) for start in range(0, count, size)]
        self.largest = max(self.largest, size)
        self.shapes.append(shape)
        whole = torch.cat([read(*place) for place in places]).reshape(shape)
        assert whole.dtype == dtype
        return torch.nn.Parameter(whole)


def saved(folder: Path, architecture: str) -> Path:
    model = builders.tiny_causal(architecture, seed=3)
    model.save_pretrained(folder)
    builders.train_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", builders.ARCHITECTURES)
@pytest.mark.parametrize("processes", [1, 2, 7])
def test_the_parts_are_those_of_the_whole_model(
    tmp_path: Path, architecture: str, processes: int
) -> None:
    folder, pieces = saved(tmp_path, architecture), Pieces(processes)
    found = load_causal_parts(folder, Dtype.float32, CONTEXT, pieces)
    whole = load_causal(folder, Dtype.float32, CONTEXT)
    named = dict(whole.named_parameters())
    assert [name for name, _ in found.named_parameters()] == list(named)  # tied ones once, as there
    assert sorted(pieces.shapes) == sorted(tuple(each.shape) for each in named.values())
    for name, own in found.named_parameters():
        assert torch.equal(own, named[name]), name
    ids = torch.randint(2, builders.VOCABULARY, (2, 5))
    assert torch.equal(found(ids).logits, whole(ids).logits)
    assert not found.training
    assert found.name_or_path == whole.name_or_path
    most = max(each.numel() for each in named.values())
    assert pieces.largest == -(-most // processes)


def test_without_shards_it_is_loaded_as_a_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama")
    found = load_causal_parts(folder, Dtype.float32, CONTEXT, None)
    assert torch.equal(
        found.get_input_embeddings().weight,
        load_causal(folder, Dtype.float32, CONTEXT).get_input_embeddings().weight,
    )


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, "llama")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name].view(-1)[-1] = torch.nan
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        load_causal_parts(folder, Dtype.float32, CONTEXT, Pieces(2))


def test_another_type_is_cast(tmp_path: Path) -> None:
    folder = saved(tmp_path, "gpt2")
    found = load_causal_parts(folder, Dtype.bfloat16, CONTEXT, Pieces(3))
    assert {own.dtype for own in found.parameters()} == {torch.bfloat16}
