"""Sampling responses. Each token's noise is named by (stream, row, sample, position), so neither
the batch a row stands in nor the order of rows can change what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokencredit.models.decoding.gumbel import Drawer, require_finite
from tokencredit.models.decoding.nucleus import KeptIds, likeliest
from tokencredit.models.decoding.packed_head import packed
from tokencredit.models.decoding.sampling import Sampling
from tokencredit.models.decoding.state import Reader
from tokencredit.models.decoding.stops import Decode, StopStrings
from tokencredit.models.loading.trunk import backbone, head_of
from tokencredit.models.policy import SpecialIds
from tokencredit.rollout import Batch, Kept, Prompts
from tokencredit.streams import fold, seeds, stream_key

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated(Batch):
    """What a model said."""

    ids: Int[Tensor, "B T"]
    """Response ids, the tokenizer's end id behind the end."""
    lengths: Int[Tensor, "B"]
    """Number of response tokens, the end token included; never told from ids."""
    finished: Bool[Tensor, "B"]
    """Ended by an end token or a stop string; False where the length limit cut it off."""
    stopped: Bool[Tensor, "B"]
    """Ended by a stop string."""
    kept: Kept | None = None
    """The ids each token was chosen from; None unless `Sampling.keeps`."""

    @property
    def mask(self) -> Bool[Tensor, "B T"]:
        """True up to and including the last token."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


@torch.no_grad()
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
def evaluating(model: nn.Module) -> Iterator[None]:
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
    head: Callable[[Tensor], Tensor],
    prompts: Prompts,
    rows: Int[Tensor, "n"],
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


def _compacted(going: Bool[Tensor, "m"]) -> Int[Tensor, "k"]:
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
        self.seeds: Int[Tensor, "B T 3"] | None = None
        self.drawer: Drawer | None = None

    def name_noise(self, keys: Sequence[int]) -> None:
        """Sample, with noise named by each row's key and the position; until then, argmax."""
        device = self.ids.device
        positions = torch.arange(self.ids.shape[1], device=device)
        self.seeds = seeds(fold(torch.tensor(keys, device=device)[:, None], positions))

    def choose(
        self, logits: Float[Tensor, "n V"], rows: Int[Tensor, "n"], t: int
    ) -> Int[Tensor, "n"]:
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

    def record(self, token: Int[Tensor, "n"], rows: Int[Tensor, "n"], t: int) -> Bool[Tensor, "n"]:
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
