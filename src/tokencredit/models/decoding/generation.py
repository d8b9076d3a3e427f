"""Sampling responses. Each token's noise is named by (stream, row, sample, position), so neither
the batch a row stands in nor the order of rows can change what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from jaxtyping import Bool, Float, Int

from tokencredit.models.decoding.gumbel import Drawer, require_finite
from tokencredit.models.decoding.nucleus import KeptIds, likeliest
from tokencredit.models.decoding.packed_head import packed
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.loading.trunk import backbone, head_of
from tokencredit.models.passes.sequences import position_ids
from tokencredit.models.tokens.ends import SpecialIds
from tokencredit.ops import without_gradient
from tokencredit.rollout import Batch, Kept, Prompts
from tokencredit.streams import fold, seeds, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated(Batch):
    """What a model said."""

    ids: Int[torch.Tensor, "B T"]
    """Response ids, the tokenizer's end id behind the end."""
    lengths: Int[torch.Tensor, "B"]
    """Number of response tokens, the end token included; never told from ids."""
    finished: Bool[torch.Tensor, "B"]
    """Ended by an end token or a stop string; False where the length limit cut it off."""
    stopped: Bool[torch.Tensor, "B"]
    """Ended by a stop string."""
    kept: Kept | None = None
    """The ids each token was chosen from; None unless `Sampling.keeps`."""

    @property
    def mask(self) -> Bool[torch.Tensor, "B T"]:
        """True up to and including the last token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


@without_gradient
def generate(  # noqa: PLR0913 - two switches that few callers need
    model: PreTrainedModel,
    prompts: Prompts,
    sampling: Sampling,
    special: SpecialIds,
    stream: tuple[int | str, ...],
    *,
    greedy: bool = False,
    decode: Decode | None = None,
) -> Generated:
    """Responses to all prompts, `sampling.chunk` of them at a time.

    A token is the argmax of its logits plus Gumbel noise, which samples their softmax; `greedy`
    leaves out noise, top-k, and top-p. `decode` turns ids into text and is needed for
    `sampling.stop`. The model runs in evaluation mode and is then put back: in training mode,
    gradient checkpointing turns the cache off without a word.

    Raises `UserError` where kept ids exceed `sampling.nucleus_memory_mb`, `FloatingPointError`
    where logits are not finite.
    """
    if sampling.stop and decode is None:
        raise ValueError("rollout.stop needs text: pass `decode`")
    stops = StopStrings(sampling.stop, decode) if sampling.stop and decode else None
    responses = _Responses(prompts, sampling, special, stops)
    if not greedy:
        named = zip(prompts.rows.tolist(), prompts.samples.tolist(), strict=True)
        responses.name_noise([stream_key(*stream, *name) for name in named])
    with evaluating(model):
        head = packed(head_of(model))
        for rows in torch.arange(len(prompts), device=prompts.ids.device).split(sampling.chunk):
            _speak(backbone(model), head, prompts, rows, responses)
    return responses.finish()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; those that were not go back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _speak(
    trunk: Any,
    head: Callable[[torch.Tensor], torch.Tensor],
    prompts: Prompts,
    rows: Int[torch.Tensor, "n"],
    responses: _Responses,
) -> None:
    """All tokens of some rows. Those that end leave the batch; the last ones fill their places."""
    mask, limit = prompts.mask[rows], int(prompts.max_new[rows].max())
    width = int(mask.sum(dim=1).max())
    reader = Reader(trunk, width + limit - 1)
    states = reader.start(prompts.ids[rows, -width:], mask[:, -width:])
    for t in range(limit):
        token = responses.choose(head(states).float(), rows, t)
        chosen = _compacted(responses.record(token, rows, t))
        if len(chosen) == 0:
            return
        if len(chosen) < len(rows):
            reader.select(chosen)
        rows = rows[chosen]
        states = reader.follow(token[chosen])


def _compacted(going: Bool[torch.Tensor, "m"]) -> Int[torch.Tensor, "k"]:
    """The places of the k rows that go on; those behind the first k move into the gaps."""
    count = int(going.sum())
    chosen = torch.arange(count, device=going.device)
    chosen[~going[:count]] = count + going[count:].nonzero().squeeze(1)
    return chosen


class _Responses:
    """What has been said so far by all rows, and how the next tokens are chosen."""

    def __init__(
        self, prompts: Prompts, sampling: Sampling, special: SpecialIds, stops: StopStrings | None
    ) -> None:
        """Nothing said yet, and no noise."""
        count, device = len(prompts), prompts.ids.device
        shape = (count, int(prompts.max_new.max()))
        self.prompts, self.sampling, self.special, self.stops = prompts, sampling, special, stops
        self.longest_min = int(prompts.min_new.max())
        self.spare = special.spare_on(device)
        self.ids = torch.full(shape, special.eos, device=device)
        self.lengths = torch.zeros(count, dtype=torch.long, device=device)
        self.finished = torch.zeros(count, dtype=torch.bool, device=device)
        self.stopped = torch.zeros_like(self.finished)
        self.kept = KeptIds(shape, sampling, device) if sampling.keeps else None
        self.seeds: Int[torch.Tensor, "B T 3"] | None = None
        self.drawer: Drawer | None = None

    def name_noise(self, keys: Sequence[int]) -> None:
        """Sample, with noise named by each row's key and the position; until then, argmax."""
        device = self.ids.device
        positions = torch.arange(self.ids.shape[1], device=device)
        self.seeds = seeds(fold(torch.tensor(keys, device=device)[:, None], positions))

    def choose(
        self, logits: Float[torch.Tensor, "n V"], rows: Int[torch.Tensor, "n"], t: int
    ) -> Int[torch.Tensor, "n"]:
        """The tokens of some rows at position t; `logits` is overwritten."""
        if self.sampling.temperature != 1:
            logits.div_(self.sampling.temperature)
        if t < self.longest_min:
            early = t < self.prompts.min_new[rows]
            for end in self.special.ends:
                logits[:, end].masked_fill_(early, -torch.inf)
        if self.special.pad >= 0:
            logits[:, self.special.pad] = -torch.inf
        if self.spare is not None:
            logits.index_fill_(1, self.spare, -torch.inf)
        if self.seeds is None:
            best, token = logits.max(dim=1)
            require_finite(best)
            return token
        if self.sampling.restricts:
            likely = likeliest(logits, self.sampling.top_k, self.sampling.top_p)
            if self.kept is not None:
                self.kept.add(rows, t, likely, logits > -torch.inf)
            logits.masked_fill_(~likely, -torch.inf)
        if self.drawer is None or self.drawer.rows < len(rows):
            self.drawer = Drawer(len(rows), logits.shape[1], logits.device)
        return self.drawer.draw(logits, self.seeds[rows, t])

    def record(
        self, token: Int[torch.Tensor, "n"], rows: Int[torch.Tensor, "n"], t: int
    ) -> Bool[torch.Tensor, "n"]:
        """Write the tokens of some rows at position t down; which rows go on."""
        self.ids[rows, t] = token
        self.lengths[rows] = t + 1
        ended = token == self.special.eos
        for end in self.special.others:
            ended = ended | (token == end)
        if self.stops is not None:
            texts = self.ids[rows, : t + 1].tolist()
            complete = [self.stops.completed(text) for text in texts]
            self.stopped[rows] = torch.tensor(complete, device=token.device) & ~ended
            ended = ended | self.stopped[rows]
        self.finished[rows] = ended
        return ~ended & (t + 1 < self.prompts.max_new[rows])

    def finish(self) -> Generated:
        """All responses; the columns that none of them reaches left out."""
        longest = int(self.lengths.max())
        return Generated(
            ids=self.ids[:, :longest],
            lengths=self.lengths,
            finished=self.finished,
            stopped=self.stopped,
            kept=None if self.kept is None or self.seeds is None else self.kept.finish(longest),
        )


Decode = Callable[[list[int]], str]
"""From ids to text, e.g. `tokenizer.decode`."""
EDGE: Final = 4
"""Characters at the start of a piece of text that decoding from its middle may have garbled."""


class StopStrings:
    """Tells when the text of a response comes to hold one of some strings."""

    def __init__(self, strings: Sequence[str], decode: Decode) -> None:
        """`strings`: none of them empty."""
        self.strings = tuple(strings)
        self.decode = decode
        self.reach = max(map(len, self.strings)) + EDGE

    def completed(self, ids: list[int]) -> bool:
        """Whether the last of `ids` completes a stop string. Asked after every token.

        Only the end of the response is decoded: enough tokens for the longest string to begin in
        front of the last one.
        """
        size = 2 * self.reach
        while size < len(ids) and len(self.decode(ids[-size:-1])) < self.reach:
            size *= 2
        text = self.decode(ids[-size:])
        return any(string in text for string in self.strings)


class Reader:
    """Hidden states after the last token of each row; what was read before is in a cache."""

    def __init__(self, trunk: Any, limit: int) -> None:
        """`limit`: tokens a row may have, padding included."""
        from tokencredit.models.decoding.cache import RoomyCache  # made of a class of transformers

        self.trunk, self.cache, self.length = trunk, RoomyCache(limit), 0

    def start(
        self, ids: Int[torch.Tensor, "n P"], mask: Bool[torch.Tensor, "n P"]
    ) -> Float[torch.Tensor, "n d"]:
        """Read the prompts; one that several rows share is read once."""
        self.mask, self.padded = mask, not bool(mask.all())
        self.positions = position_ids(mask)
        distinct, place = torch.cat([ids, mask], dim=1).unique(dim=0, return_inverse=True)
        if len(distinct) == len(ids):
            return self._read(ids, mask, self.positions)
        first = place.new_zeros(len(distinct)).scatter_(0, place, torch.arange(len(ids)).to(place))
        states = self._read(ids[first], mask[first], self.positions[first])
        self.cache.batch_select_indices(place)
        return states[place]

    def select(self, chosen: Int[torch.Tensor, "k"]) -> None:
        """Go on with these rows, in this order."""
        self.cache.batch_select_indices(chosen)
        self.mask, self.positions = self.mask[chosen], self.positions[chosen]

    def follow(self, token: Int[torch.Tensor, "n"]) -> Float[torch.Tensor, "n d"]:
        """Read one more token of each row."""
        self.positions = self.positions[:, -1:] + 1
        if self.padded:
            self.mask = torch.cat([self.mask, torch.ones_like(self.positions).bool()], dim=1)
        # Without padding nothing is masked, and no mask need be built for every token.
        return self._read(token[:, None], self.mask if self.padded else None, self.positions)

    def _read(
        self,
        ids: Int[torch.Tensor, "n S"],
        mask: Bool[torch.Tensor, "n L"] | None,
        positions: torch.Tensor,
    ) -> Float[torch.Tensor, "n d"]:
        states: torch.Tensor = self.trunk(
            input_ids=ids,
            attention_mask=None if mask is None else mask.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.length += ids.shape[1]
        assert self.cache.get_seq_length() == self.length, "the model left the cache aside"
        return states[:, -1]
