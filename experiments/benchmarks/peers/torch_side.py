"""What the programs share once torch is imported: the tokenizer, lengths, and step counting."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import workload
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from workload import EOS, PAD, Setting

LIBRARIES = ("torch", "transformers", "accelerate", "trl", "tokenizers", "numpy")


def use_threads() -> None:
    """Give torch the number of threads of the comparison."""
    torch.set_num_threads(workload.THREADS)


def facts() -> dict[str, Any]:
    """What the result of a program depends on."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "threads": torch.get_num_threads()}


def tokenizer() -> Any:
    """A tokenizer whose only job is to know the special ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": EOS, "<pad>": PAD}
    words |= {f"w{index}": index for index in range(workload.FIRST, workload.VOCABULARY)}
    roles = {"eos_token": "<eos>", "bos_token": "<eos>", "pad_token": "<pad>"}
    inner = Tokenizer(models.WordLevel(words, unk_token=roles["eos_token"]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **roles)


class ForceLengths:
    """A logits processor: no PAD, no EOS before the drawn length, and then EOS for certain.

    It writes into the scores that it is given: a copy of (rows, vocabulary) a token would be a cost
    that belongs to the comparison, not to the library.
    """

    def __init__(self, setting: Setting, lengths: list[int], prompt_width: int) -> None:
        """`lengths` of the rows of one batch; `prompt_width` columns stand before the response."""
        self.prompt_width = prompt_width
        self.ending: dict[int, list[int]] = {}
        if setting.ends:
            for row, length in enumerate(lengths):
                self.ending.setdefault(length - 1, []).append(row)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores of the next token, changed in place."""
        scores[:, (EOS, PAD)] = -torch.inf
        rows = self.ending.get(input_ids.shape[1] - self.prompt_width)
        if rows:
            scores[rows] = -torch.inf
            scores[rows, EOS] = 0.0
        return scores


def lengths_to_end(responses: Tensor) -> Tensor:
    """Number of tokens of each row up to its first EOS, that one counted; all of them without."""
    ends = responses == EOS
    first = ends.long().argmax(dim=1) + 1
    return torch.where(ends.any(dim=1), first, responses.shape[1])


class Watch:
    """Counts optimizer steps, of whatever optimizer, and sees whether a weight moves."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` is a trained tensor."""
        self.weight = weight
        self.steps = 0
        self.before = weight.detach().clone()
        register_optimizer_step_post_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.steps += 1

    def start(self) -> None:
        """An iteration begins; call it outside of the timed region."""
        self.steps = 0
        self.before = self.weight.detach().clone()

    def change(self) -> float:
        """How far the weight has moved since `start`."""
        return float((self.weight.detach() - self.before).abs().max())
