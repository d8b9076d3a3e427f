"""A user's own Python function as judge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from tokencredit.errors import UserError, require
from tokencredit.judges.answers import Answers, asked_about, unrolled
from tokencredit.judges.given import Given, Live
from tokencredit.judges.judge import Judge, OpenJudge
from tokencredit.models.tokens.texts import decode, decode_tokens
from tokencredit.rewards.scheme import Evidence, RewardScheme
from tokencredit.rollout import Judgement, Rollout
from tokencredit.user_code.files import Root
from tokencredit.user_code.guard import SECONDS, guarded
from tokencredit.user_code.imports import LOADED, import_file, import_module, root_of

OFFSETS: Final = "offsets"
"""The parameter that is given the places of tokens."""


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
        """The kind of evidence that `meaning` states."""
        return self.meaning

    def check(self) -> None:
        """The function must be there, and take what it will be given."""
        function = self.load()
        if inspect.iscoroutinefunction(function):
            raise UserError(f"{self.what}: is async; define it with def, and return numbers")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some built-in functions have none
            return
        try:
            by_name = [*(OFFSETS,) * self._takes_offsets(function), *further(function)]
            signature.bind([], [], **{name: [] for name in by_name})
        except TypeError as error:
            raise UserError(
                f"{self.what}: takes {signature}, but is called with the lists prompts and "
                f"responses ({error}); define it as {self._split()[1]}(prompts, responses), with "
                "a third parameter `offsets` if it says something of each token"
            ) from error

    def check_pays(self, scheme: RewardScheme) -> None:
        """A scheme that reads single tokens needs a function that is told where they are."""
        if scheme.evidence is not Evidence.none and not self._takes_offsets(self.load()):
            raise self._alone(scheme, "has no parameter `offsets`; give it one and return")

    def identity(self) -> object:
        """The content of its file and of those of the user's that this imports or names."""
        place, name = self._split()
        content: object = place
        if not place.endswith(".py") or Path(place).is_file():
            module = self._module(place)
            file = getattr(module, "__file__", None)
            if file is not None:
                loaded = LOADED.get(module.__name__, ())
                content = self._root(module, Path(file)).identity(loaded)
        return {
            "class": type(self).__name__,
            "name": name,
            "content": content,
            "meaning": self.meaning,
        }

    def columns(self, there: Callable[[], Sequence[str]]) -> tuple[str, ...]:
        """The columns of the data that the function's further parameters name.

        A parameter with a default may name none.
        """
        wanted = further(self.load())
        if not wanted:
            return ()
        known = there()
        missing = [name for name, needed in wanted.items() if needed and name not in known]
        if missing:
            raise UserError(
                f"judge.function = {self.function!r}: the data has no column for its parameter "
                f"{', '.join(map(repr, missing))}; it has {', '.join(map(repr, known))}. Name the "
                "parameter like a column, or give it a default"
            )
        return tuple(name for name in wanted if name in known)

    def open(self, given: Given, actors: Live) -> OpenJudge:
        """The function behind a callable on rollouts."""
        function, tokenizer = self.load(), actors.tokenizer
        names = self.columns(given.column_names)
        columns = given.columns(names) if names else {}
        scheme = given.scheme
        if scheme is not None and scheme.evidence is Evidence.none:
            scheme = None
        with_offsets = self._takes_offsets(function)
        if scheme is not None:
            self.check_pays(scheme)

        def judge(rollout: Rollout) -> Judgement:
            prompts = decode(tokenizer, rollout.prompt_ids, rollout.prompt_mask)
            responses, offsets = decode_tokens(
                tokenizer, rollout.response_ids, rollout.response_mask
            )
            texts, rows = (prompts, responses), rollout.rows.tolist()
            keywords: dict[str, Any] = {OFFSETS: offsets} if with_offsets else {}
            keywords |= {name: [values[row] for row in rows] for name, values in columns.items()}
            answer = self._call(function, texts, keywords, rows, given.seconds)
            pair = with_offsets and isinstance(answer, tuple) and len(answer) == 2
            scores, evidence = answer if pair else (answer, None)
            if scheme is not None and evidence is None:
                raise self._alone(scheme, "returns scores alone; return")
            return self._judgement(scores, evidence, rollout)

        return judge

    def rate(self, prompts: list[str], responses: list[str]) -> list[float]:
        """The function's scores of these texts, outside of a run."""
        rows = range(len(prompts))
        answer = self._call(self.load(), (prompts, responses), {}, rows, SECONDS)
        scores: list[float] = Answers(self.what, rows).scores(answer).tolist()
        return scores

    @property
    def what(self) -> str:
        """The function, as errors name it."""
        return f"judge.function = {self.function!r}"

    def _alone(self, scheme: RewardScheme, what: str) -> UserError:
        return UserError(
            f"{self.what}: {type(scheme).__name__} pays by evidence of each "
            f"token, but the function {what} (scores, evidence), or choose reward_scheme=sparse"
        )

    def _takes_offsets(self, function: Callable[..., Any]) -> bool:
        try:
            return OFFSETS in inspect.signature(function).parameters
        except (TypeError, ValueError):
            return False

    def _call(
        self,
        function: Callable[..., Any],
        texts: tuple[list[str], list[str]],
        keywords: Mapping[str, Any],
        rows: Sequence[int],
        seconds: float | None,
    ) -> Any:
        """What the function returns of the prompts and responses of `rows`; generators as lists."""
        with guarded(self.what, seconds, asked_about(rows)):
            return unrolled(function(*texts, **keywords), len(rows))

    def load(self) -> Callable[..., Any]:
        """The function itself, or an error that says why it cannot be loaded."""
        place, name = self._split()
        module = self._module(place)
        function = getattr(module, name, None)
        if callable(function):
            return function  # type: ignore[no-any-return]
        own = [
            each
            for each, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        known = f"; it has: {', '.join(own)}" if own else ""
        raise UserError(f"{self.what}: {place} has no function {name!r}{known}")

    def _module(self, place: str) -> ModuleType:
        try:
            return import_file(Path(place)) if place.endswith(".py") else import_module(place)
        except UserError as error:
            raise UserError(f"{self.what}: {error}") from error

    def _root(self, module: ModuleType, file: Path) -> Root:
        place, _ = self._split()
        if place.endswith(".py"):
            return Root.of_file(file.resolve())
        return root_of(place, module)

    def _split(self) -> tuple[str, str]:
        assert self.function is not None
        place, _, name = self.function.rpartition(":")
        return str(Path(place).expanduser()) if place.endswith(".py") else place, name

    def _judgement(self, scores: Any, evidence: Any, rollout: Rollout) -> Judgement:
        mask = rollout.response_mask
        answers = Answers(self.what, rollout.rows.tolist())
        values = answers.scores(scores)
        matrix = torch.zeros(mask.shape)
        if evidence is not None:
            lengths = rollout.lengths.tolist()
            for row, numbers in enumerate(answers.evidence(evidence, lengths, self.meaning)):
                matrix[row, : len(numbers)] = numbers
        return Judgement(scores=values.to(mask.device), evidence=matrix.to(mask.device))


def further(function: Callable[..., Any], *, offsets: bool = False) -> dict[str, bool]:
    """The parameters behind prompts and responses, and whether the function needs them.

    What `*args` or `**kwargs` would take is not among them, and `offsets` only if wanted.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[2:]
    except (TypeError, ValueError):  # a function written in C
        return {}
    return {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in parameters
        if (offsets or parameter.name != OFFSETS)
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
