"""A user's own Python function as judge."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tokencredit.canonical import file_sha256
from tokencredit.errors import UserError, require
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokencredit.context import Context
    from tokencredit.stages.actors import Actors


@dataclass(slots=True, kw_only=True)
class FunctionJudge(Judge):
    """Calls `function(prompts, responses)`, or with `offsets` too, if it has a parameter `offsets`.

    `prompts` and `responses` are lists of text. Any further parameter takes the column of the data
    that has its name, one value a response. It returns one score a response; with `offsets`, a
    list of (start, end) character ranges of the response's tokens, it may return
    `(scores, evidence)` with one number a token.
    """

    function: str | None = None
    """`path/to/file.py:name` or `module:name`."""
    meaning: Evidence = Evidence.signed
    """What its number of each token means: signed (a reward), nonnegative (a weight), or none."""

    def __post_init__(self) -> None:
        """Check the form of the name."""
        require(
            self.function is not None and ":" in self.function,
            "judge.function (or scorer.function)",
            self.function,
            "name the function as path/to/file.py:name or module:name",
        )

    def gives(self) -> Evidence:
        """As configured."""
        return self.meaning

    def check(self) -> None:
        """The function must be there."""
        self.load()

    def identity(self) -> object:
        """The content of the file, not its path."""
        place, name = self._split()
        file = place if place.endswith(".py") else getattr(self._module(place), "__file__", None)
        content = file_sha256(Path(file)) if file and Path(file).is_file() else place
        return {
            "class": type(self).__name__,
            "name": name,
            "content": content,
            "meaning": self.meaning,
        }

    def columns(self, context: Context) -> tuple[str, ...]:
        """The columns of the data that the function's further parameters name.

        A parameter with a default may name none.
        """
        wanted = further(self.load())
        if not wanted:
            return ()
        there = context.config.dataset.column_names()
        missing = [name for name, needed in wanted.items() if needed and name not in there]
        if missing:
            raise UserError(
                f"judge.function = {self.function!r}: the data has no column for its parameter "
                f"{', '.join(map(repr, missing))}; it has {', '.join(map(repr, there))}. Name the "
                "parameter like a column, or give it a default"
            )
        return tuple(name for name in wanted if name in there)

    def open(self, context: Context, actors: Actors) -> OpenJudge:
        """The function behind a callable on rollouts."""
        function, tokenizer = self.load(), actors.tokenizer
        columns = context.columns(names) if (names := self.columns(context)) else {}
        scheme = context.config.reward_scheme
        read = context.config.judge is self and scheme.evidence is not Evidence.none
        with_offsets = "offsets" in inspect.signature(function).parameters
        if read and not with_offsets:
            raise self._alone(scheme, "has no parameter `offsets`; give it one and return")

        def judge(rollout: Rollout) -> Judgement:
            prompts = decode(tokenizer, rollout.prompt_ids, rollout.prompt_mask)
            responses, offsets = decode_tokens(
                tokenizer, rollout.response_ids, rollout.response_mask
            )
            rows = rollout.rows.tolist()
            extra: dict[str, Any] = {"offsets": offsets} if with_offsets else {}
            extra |= {name: [values[row] for row in rows] for name, values in columns.items()}
            answer = self._call(function, prompts, responses, extra)
            pair = with_offsets and isinstance(answer, tuple) and len(answer) == 2
            scores, evidence = answer if pair else (answer, None)
            if read and evidence is None:
                raise self._alone(scheme, "returns scores alone; return")
            return self._judgement(scores, evidence, rollout)

        return judge

    def _alone(self, scheme: RewardScheme, what: str) -> UserError:
        return UserError(
            f"judge.function = {self.function!r}: {type(scheme).__name__} pays by evidence of each "
            f"token, but the function {what} (scores, evidence), or choose reward_scheme=sparse"
        )

    def _call(
        self, function: Callable[..., Any], prompts: list[str], responses: list[str], extra: Any
    ) -> Any:
        try:
            return function(prompts, responses, **extra)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise UserError(
                f"judge.function = {self.function!r}: raised {type(error).__name__}: {error} "
                f"({place.filename}, line {place.lineno})"
            ) from error

    def load(self) -> Callable[..., Any]:
        """The function itself, or an error that says why it cannot be had."""
        place, name = self._split()
        function = getattr(self._module(place), name, None)
        if not callable(function):
            raise UserError(f"judge.function = {self.function!r}: {place} has no function {name!r}")
        return function  # type: ignore[no-any-return]

    def _module(self, place: str) -> ModuleType:
        from tokencredit.plugins import import_file

        try:
            return (
                import_file(Path(place))
                if place.endswith(".py")
                else importlib.import_module(place)
            )
        except UserError as error:
            raise UserError(f"judge.function = {self.function!r}: {error}") from error
        except Exception as error:
            raise UserError(
                f"judge.function = {self.function!r}: {place} does not import: {error}"
            ) from error

    def _split(self) -> tuple[str, str]:
        assert self.function is not None
        place, _, name = self.function.rpartition(":")
        return str(Path(place).expanduser()) if place.endswith(".py") else place, name

    def _judgement(self, scores: Any, evidence: Any, rollout: Rollout) -> Judgement:
        mask = rollout.response_mask
        values = self._numbers(scores)
        if evidence is not None and len(evidence) != len(mask):
            raise UserError(
                f"judge.function = {self.function!r}: returned evidence for {len(evidence)} of "
                f"{len(mask)} responses; return one list a response"
            )
        if values.shape != (len(mask),):
            raise UserError(
                f"judge.function = {self.function!r}: returned scores of shape "
                f"{tuple(values.shape)} for {len(mask)} responses; return one number a response"
            )
        matrix = torch.zeros(mask.shape)
        for row, numbers in enumerate(evidence if evidence is not None else []):
            length = int(mask[row].sum())
            if len(numbers) != length:
                raise UserError(
                    f"judge.function = {self.function!r}: response {row} has {length} tokens, but "
                    f"{len(numbers)} numbers of evidence; return one a token"
                )
            matrix[row, :length] = self._numbers(numbers)
        if not (values.isfinite().all() and matrix.isfinite().all()):
            raise UserError(
                f"judge.function = {self.function!r}: returned a number that is not finite"
            )
        return Judgement(scores=values.to(mask.device), evidence=matrix.to(mask.device))

    def _numbers(self, values: Any) -> Tensor:
        try:
            return torch.as_tensor(values, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"judge.function = {self.function!r}: returned {type(values).__name__} where "
                f"numbers are wanted ({error})"
            ) from error


def further(function: Callable[..., Any]) -> dict[str, bool]:
    """The parameters behind prompts and responses, and whether the function needs them.

    `offsets` is not among them, nor is what `*args` or `**kwargs` would take.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[2:]
    except (TypeError, ValueError):  # a function written in C
        return {}
    return {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in parameters
        if parameter.name != "offsets"
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def decode(tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor) -> list[str]:
    """The text of each row's counting tokens, special tokens left out."""
    rows = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


def decode_tokens(
    tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """The text of each response, and the character range of each of its tokens.

    A token that only completes a character begun by an earlier one owns that character's range.
    Special tokens own an empty range at the place where they stand.
    """
    texts, offsets = [], []
    special = set(tokenizer.all_special_ids)
    for row, keep in zip(ids, mask, strict=True):
        tokens = row[keep].tolist()
        ends = [
            len(tokenizer.decode(tokens[: k + 1], skip_special_tokens=True).rstrip("\ufffd"))
            for k in range(len(tokens))
        ]
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        texts.append(text)
        # A character cut off by the length limit is text too: it belongs to the last real token.
        real = [k for k, token in enumerate(tokens) if token not in special]
        if real:
            ends[real[-1] :] = [len(text)] * (len(ends) - real[-1])
        offsets.append(list(zip([0, *ends][: len(ends)], ends, strict=True)))
    return texts, offsets
