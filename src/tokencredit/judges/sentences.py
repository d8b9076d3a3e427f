"""Where the sentences of a response end, token by token."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jaxtyping import Bool
from torch import Tensor

from tokencredit.judges.function import decode_tokens
from tokencredit.ops import last_token
from tokencredit.rollout import Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sentence_ends(
    rollout: Rollout, tokenizer: PreTrainedTokenizerBase, pattern: str
) -> Bool[Tensor, "B T"]:
    """True on each token whose text holds the last character of a match of `pattern`.

    The last token of a response is an end, whatever it says. Matching is done on the text, so a
    delimiter counts however the vocabulary has cut it.
    """
    mask = rollout.response_mask
    ends = last_token(mask).cpu()
    texts, offsets = decode_tokens(tokenizer, rollout.response_ids, mask)
    expression = re.compile(pattern)
    for row, (text, ranges) in enumerate(zip(texts, offsets, strict=True)):
        last = {found.end() - 1 for found in expression.finditer(text) if found.end() > 0}
        for t, (start, stop) in enumerate(ranges):
            ends[row, t] |= any(start <= place < stop for place in last)
    return ends.to(mask.device)
