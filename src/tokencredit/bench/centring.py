"""What exact centring costs in memory and time: `python -m tokencredit.bench.centring`.

It reads a request on standard input and writes what it found. On random weights, pairs of answers
in both orders go through the advantage model, forward and backward, in turns with the language
model's loss on the same tokens; and a census of all operations says whether any tensor holds more
than a chunk of positions for all ids.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokencredit.bench.build import FIRST, SPECIAL, causal
from tokencredit.bench.report import Spread
from tokencredit.bench.run import SETTINGS, Meter, claim_stdout
from tokencredit.bench.workload import Architecture, Size
from tokencredit.console import aligned, say
from tokencredit.errors import require
from tokencredit.machine.child import die_with_parent
from tokencredit.models.adapters.lora import Lora, LoraLayers, adapted
from tokencredit.models.advantage_model import RANK, AdvantageHead, AdvantageModel
from tokencredit.models.loading.model import parameter_count
from tokencredit.models.loading.trunk import head_of
from tokencredit.models.passes.centred import CHUNK
from tokencredit.models.passes.computation import Computation
from tokencredit.models.passes.distribution import Choices
from tokencredit.models.passes.games import Duel, Games, PiContext
from tokencredit.models.passes.logprob import token_logp
from tokencredit.models.passes.packing import hidden_states
from tokencredit.ops import game_loss
from tokencredit.pipeline.worker import hush
from tokencredit.rl.world import compute_deterministically

ADAPTERS: Final = Lora(enabled=True, r=32, alpha=32, rslora=True, layers=LoraLayers.all)
"""Those of Table 1."""
SEPARATOR: Final = 8
"""Tokens between two answers."""
TRUNK, LANGUAGE_MODEL = "trunk", "language_model"
HEADS: Final = (PiContext.concat.value, PiContext.independent.value)
PEAK_MB: Final = 400
"""At the default size, a pass with the head may take so much more memory than one without."""
SLOWER: Final = 1.3
"""And so many times as long as the language model's, with pi_context=concat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be measured."""

    pairs: int = 4
    tokens: int = 512
    """Of a prompt, an answer, the separator, and the other answer."""
    size: Size = field(
        default_factory=lambda: Size(
            architecture=Architecture.llama, layers=4, width=1024, vocabulary=128_256
        )
    )
    rank: int = RANK
    chunk: int = CHUNK
    iterations: int = 5
    warm_up: int = 1
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `UserError` for numbers out of range."""
        require(self.pairs >= 1, "--pairs", self.pairs, "must be >= 1")
        least = 2 * SEPARATOR
        require(self.tokens >= least, "--tokens", self.tokens, f"must be >= {least}")
        require(self.chunk >= 1, "--chunk", self.chunk, "must be >= 1 position")
        require(
            1 <= self.rank <= self.size.width,
            "--rank",
            self.rank,
            f"must be from 1 to the width of the model, {self.size.width}",
        )

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, text: str) -> Self:
        """What was written as JSON."""
        given = json.loads(text)
        return cls(**{**given, "size": Size(**given["size"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was measured."""

    parameters: int
    """Of the model with adapters and head."""
    positions: int
    """Answer tokens of a pass, both orders."""
    peaks_mb: dict[str, float | None]
    """By what went forward and backward: the most memory above what stood before."""
    wide: list[list[object]]
    """Operations that made a tensor with the vocabulary and more than a chunk of positions, and its
    shape."""
    left_out: list[str]
    """Parameters with the vocabulary; they, their views, and their gradients are not counted."""
    seconds: dict[str, list[float]]
    """A number for each round."""
    settings: dict[str, str | None]
    """Variables of the environment that speed and memory depend on."""

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, text: str) -> Self:
        """What was written as JSON."""
        return cls(**json.loads(text))

    def slower(self, name: str) -> Spread:
        """How many times the language model's time it took, within a round."""
        rounds = zip(self.seconds[name], self.seconds[LANGUAGE_MODEL], strict=True)
        return Spread.of([own / other for own, other in rounds])

    def extra_mb(self, name: str) -> float | None:
        """How much more memory it took than the trunk without a head."""
        peak, plain = self.peaks_mb[name], self.peaks_mb[TRUNK]
        return None if peak is None or plain is None else peak - plain


class Census(TorchDispatchMode):
    """Tensors with the vocabulary as a dimension and more than `rows` positions beside it.

    Tensors in the memory of `parameters`, or of their shapes, as gradients are, do not count.
    """

    def __init__(self, vocabulary: int, rows: int, parameters: Iterable[torch.Tensor] = ()) -> None:
        """Nothing yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.vocabulary, self.rows = vocabulary, rows
        own = [p for p in parameters if vocabulary in p.shape]
        self.memory = {p.untyped_storage().data_ptr() for p in own}
        shapes = {tuple(p.shape) for p in own if p.requires_grad}
        self.shapes = shapes | {shape[::-1] for shape in shapes}  # gradients turned round
        self.wide: list[list[object]] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        """Run an operation and look at what it made."""
        out = func(*args, **(kwargs or {}))
        self.wide += [[str(func), *t.shape] for t in _tensors(out) if self.is_wide(t)]
        return out

    def is_wide(self, found: torch.Tensor) -> bool:
        """Whether a tensor counts."""
        return (
            self.vocabulary in found.shape
            and found.numel() > self.rows * self.vocabulary
            and tuple(found.shape) not in self.shapes
            and found.untyped_storage().data_ptr() not in self.memory
        )


def _tensors(out: object) -> Iterator[torch.Tensor]:
    for each in out if isinstance(out, tuple | list) else (out,):
        if isinstance(each, torch.Tensor):
            yield each


class Subject:
    """An advantage model and a language model of one size, and the pairs that both read."""

    def __init__(self, request: Request) -> None:
        """Random weights, those of the head too: zeros would be no fair factors."""
        torch.manual_seed(request.seed)
        size = request.size
        head = AdvantageHead(size.width, size.vocabulary, request.rank)
        torch.nn.init.normal_(head.up, std=0.1)
        model = adapted(causal(size, request.tokens), ADAPTERS)
        self.model = AdvantageModel(model, head, rows=request.chunk)
        self.language_model = causal(size, request.tokens)
        duels = [_duel(request) for _ in range(request.pairs)]
        separator = _words(request, SEPARATOR)
        self.games = {
            context.value: Games.of(duels, separator, SPECIAL.pad, context) for context in PiContext
        }
        self.won = torch.ones(2 * request.pairs)
        self.won[request.pairs :] = -1

    def run(self, name: str) -> None:
        """Forward and backward; no gradient is left."""
        loss = self._loss(name)
        loss.backward()
        for each in (self.model, self.language_model):
            each.zero_grad(set_to_none=True)

    def _loss(self, name: str) -> torch.Tensor:
        played, computation = self.games[HEADS[0]], Computation()
        if name in self.games:
            return game_loss(self.model.outcomes(self.games[name]), self.won)
        if name == TRUNK:
            return hidden_states(self.model.model, played.layout, computation).sum()
        states = hidden_states(self.language_model, played.layout, computation)
        choices, memory = Choices(ids=played.chosen), computation.logits_memory
        return -token_logp(states, head_of(self.language_model), choices, memory)[0].mean()


def _words(request: Request, count: int) -> list[int]:
    found: list[int] = torch.randint(FIRST, request.size.vocabulary, (count,)).tolist()
    return found


def _duel(request: Request) -> Duel:
    """A prompt of an eighth of the tokens, and two answers of about equal length."""
    prompt = max(1, request.tokens // 8)
    left = request.tokens - prompt - SEPARATOR
    lengths = prompt, left // 2, left - left // 2
    return Duel(*(_words(request, count) for count in lengths))


def measure(request: Request, tell: Callable[[str], None]) -> Found:
    """Peaks of memory, the census, and rounds of times; each round in another order."""
    torch.set_num_threads(request.threads)
    compute_deterministically()
    subject, size = Subject(request), request.size
    names = [*HEADS, LANGUAGE_MODEL]
    peaks, meter = dict[str, float | None](), Meter()
    for name in (TRUNK, *HEADS):
        subject.run(name)  # what is made once, at first use, is no part of it
        meter.start()
        subject.run(name)
        peaks[name] = meter.above_mb()
        tell(f"memory of {name}: {peaks[name] or float('nan'):.0f} MB")
    with Census(size.vocabulary, request.chunk, subject.model.parameters()) as census:
        for name in HEADS:
            subject.run(name)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(request.warm_up + request.iterations):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            began = time.perf_counter()
            subject.run(name)
            seconds[name].append(time.perf_counter() - began)
        tell(f"round {number + 1}: " + ", ".join(f"{n} {seconds[n][-1]:.2f} s" for n in names))
    return Found(
        parameters=parameter_count(subject.model),
        positions=len(subject.games[HEADS[0]].chosen),
        peaks_mb=peaks,
        wide=census.wide,
        left_out=[
            f"{name} {tuple(p.shape)}"
            for name, p in subject.model.named_parameters()
            if size.vocabulary in p.shape
        ],
        seconds={name: found[request.warm_up :] for name, found in seconds.items()},
        settings={name: os.environ.get(name) for name in SETTINGS},
    )


def table(request: Request, found: Found) -> str:
    """What was measured in lines, beside what is wanted of it at the default size."""
    size = request.size
    rows = [("forward and backward", "seconds (least–greatest)", "× language model", "peak MB")]
    for name, what in (
        (HEADS[0], "advantages, pi_context=concat"),
        (HEADS[1], "advantages, pi_context=independent"),
        (LANGUAGE_MODEL, "language model, all weights trained"),
    ):
        extra = found.extra_mb(name) if name in HEADS else None
        rows.append(
            (
                what,
                Spread.of(found.seconds[name]).text(3),
                found.slower(name).text() if name in HEADS else "1",
                "–" if extra is None else f"{extra:+.0f}",
            )
        )
    wide = sorted({str(tuple(shape)) for _, *shape in found.wide})
    lines = "\n".join(aligned(rows))
    return f"""
{size.architecture.value}, {size.layers} layers, width {size.width}, vocabulary {size.vocabulary}, \
float32, {request.threads} threads
{request.pairs} pairs in both orders, texts of {request.tokens} tokens, {found.positions} answer \
tokens, chunks of {request.chunk}, rank {request.rank}
{found.parameters / 1e6:.1f} M parameters; medians of {request.iterations} rounds

{lines}

peak: above that of the same model's trunk, forward and backward, without a head
tensors over all ids with more than {request.chunk} positions: {", ".join(wide) or "none"}
not counted, with views and gradients: {", ".join(found.left_out)}
wanted of concat at the default size: at most {PEAK_MB} MB, {SLOWER} ×, and no such tensor"""


def main() -> int:
    """Read a request, measure, write the result as one line."""
    die_with_parent()
    hush()
    out = claim_stdout()
    out.write(json.dumps(measure(Request.of(sys.stdin.read()), say).plain()) + "\n")
    out.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
