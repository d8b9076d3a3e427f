"""A language model from a folder, ready to continue prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tokencredit.models.decoding.generation import Generated, generate
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.model import Dtype, load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.weights import load_causal
from tokencredit.models.tokens.ends import SpecialIds, special_ids
from tokencredit.models.tokens.texts import decode
from tokencredit.rollout import Prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TextGenerator:
    """A model with its tokenizer, and the ids that end its responses."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    special: SpecialIds

    @classmethod
    def load(
        cls,
        folder: Path,
        dtype: Dtype = Dtype.float32,
        *,
        device: str = "cpu",
        context: int | None = None,
        key: str = "model",
    ) -> Self:
        """The model and tokenizer in `folder`, as `load_causal` and `load_tokenizer` read them.

        `context`: how many tokens it must be able to read; `key`: what messages call the folder.
        """
        tokenizer = load_tokenizer(folder)
        model = load_causal(Place(folder, key=key), dtype, context=context).eval().to(device)
        return cls(model, tokenizer, special_ids(tokenizer, model))

    def generate(
        self,
        prompts: Prompts,
        sampling: Sampling,
        stream: tuple[int | str, ...],
        *,
        stop_in_plain_text: bool = False,
        greedy: bool = False,
    ) -> Generated:
        """Responses to the prompts, on the model's device; `stream` names the random numbers.

        Stop strings are looked for in the text with special tokens, as in training, or
        `stop_in_plain_text`, without them. `greedy`: the likeliest token each time.
        """
        decoded = partial(self.tokenizer.decode, skip_special_tokens=stop_in_plain_text)
        prompts = prompts.to(self.model.device)
        return generate(
            self.model,
            prompts,
            sampling,
            self.special,
            stream,
            greedy=greedy,
            decode=decoded,
        )

    def texts(self, said: Generated) -> list[str]:
        """The text of each response, special tokens left out."""
        return decode(self.tokenizer, said.ids, said.mask)
