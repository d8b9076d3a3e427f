"""Whether the tensors in a model's files are those of the model that its configuration describes.

The same rules for headers alone, which `plan` reads, and for weights that were loaded: what
transformers ties, ignores, or prefixes is no fault, anything else that is missing, unexpected, or
of another shape is, since transformers would draw weights at random or leave some aside.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from tokencredit.errors import UserError
from tokencredit.models.loading.place import (
    BUFFERS,
    Place,
    Shape,
    listed,
    read_headers,
    rename,
    renaming,
)
from tokencredit.models.loading.trunk import NO_SCORE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LM_HEAD: Final = re.compile(r"(^|\.)(lm_head|embed_out)(\.|$)")
"""Heads of language models, which a classifier does not use."""
OTHER_HEAD: Final = re.compile(
    r"^(score|classifier|classification_head|reward_head|regression_head|value_head|v_head)\."
)
"""Heads that rate texts, which a language model does not use."""
UNMERGED: Final = re.compile(r"\.(base_layer|lora_[AB])\.")
REPORTER: Final = "transformers.modeling_utils"
SIZES: Final = "mismatched_keys"
PEFT: Final = "base_model.model"
"""Its part `model` alone would be taken off by transformers too."""
DEEPEST: Final = 4
"""Parts of a name that are tried as a prefix."""
MOST_LABELS: Final = 16
"""Rows that a tensor may have to be taken for a score head under another name."""


class Part(Enum):
    """What is made of the files."""

    causal = "AutoModelForCausalLM"
    """A language model."""
    classifier = "AutoModelForSequenceClassification"
    """A finished classifier, whose head is among the weights."""
    start = "start"
    """A classifier whose head is about to be trained, and may be missing or of another size."""
    tagger = "AutoModelForTokenClassification"
    """A finished classifier of tokens."""
    start_tagger = "start_tagger"
    """One whose head is about to be trained."""
    trunk = "AutoModel"
    """Hidden states."""

    @property
    def kind(self) -> str:
        """What it is, in a message."""
        return {Part.causal: "language model", Part.trunk: "model"}.get(self, "classifier")

    @property
    def auto(self) -> Any:
        """The class of transformers that loads it."""
        import transformers

        return getattr(transformers, STARTS.get(self, self).value)


STARTS: Final = {Part.start: Part.classifier, Part.start_tagger: Part.tagger}
"""What begins with a head that may be fresh, and what it becomes."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What does not fit."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: Mapping[str, tuple[Shape, Shape]] = field(default_factory=dict)
    """The shape of a tensor in the files, and the one that it must have."""

    def count(self) -> int:
        """How many tensors."""
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    @classmethod
    def between(cls, found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> Self:
        """Where the shapes of tensors in a file differ from those of a module, by name."""
        both = sorted(found.keys() & wanted.keys())
        return cls(
            missing=tuple(sorted(wanted.keys() - found.keys())),
            unexpected=tuple(sorted(found.keys() - wanted.keys())),
            misshaped={n: (found[n], wanted[n]) for n in both if found[n] != wanted[n]},
        )

    def __str__(self) -> str:
        """What is wrong, the first names of each kind."""
        said = []
        for kind, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                said.append(f"{len(names)} {kind} ({listed(names)})")
        if self.misshaped:
            first = [f"{n}: {a} in place of {b}" for n, (a, b) in self.misshaped.items()]
            said.append(f"{len(first)} of another shape ({listed(first)})")
        return ", ".join(said)


@contextmanager
def quiet(*, entirely: bool = False) -> Iterator[None]:
    """Without transformers' own report of what it did not find, which is judged here.

    `entirely`: without any of its warnings, where no weights are read.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    # The reporter's own level must stay: another one makes transformers check what it need not.
    library, reporter = logging.getLogger("transformers"), logging.getLogger(REPORTER)
    level = library.level
    reporter.addFilter(_is_no_report)
    if entirely:
        library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)
        reporter.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def skeleton(part: Part, config: PreTrainedConfig, place: Place) -> PreTrainedModel:
    """The model that a configuration describes, without weights; nothing random is drawn."""
    try:
        with quiet(entirely=True), torch.random.fork_rng(devices=[]), torch.device("meta"):
            model: PreTrainedModel = part.auto.from_config(config, trust_remote_code=False)
    except Exception as error:
        raise UserError(
            f"{place}: no {part.kind} can be made of its config.json: {first_line(error)}"
        ) from error
    return model


def fit(
    model: PreTrainedModel, shapes: Mapping[str, Shape], rules: Mapping[str, str]
) -> Mapping[str, Any]:
    """What transformers would say after loading tensors of these names and shapes into a skeleton.

    `rules` rename them first.
    """
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with quiet(entirely=True), torch.random.fork_rng(devices=[]):
        _, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=tensors,
            device_map={"": "meta"},
            dtype=torch.float32,
            key_mapping=dict(rules) or None,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    found: Mapping[str, Any] = info
    return found


SPARE: Final = {
    Part.start: (LM_HEAD, OTHER_HEAD),
    Part.start_tagger: (LM_HEAD, OTHER_HEAD),
    Part.tagger: (LM_HEAD,),
    Part.classifier: (LM_HEAD,),
    Part.causal: (OTHER_HEAD,),
    Part.trunk: (),
}
"""Heads that a file may hold although the part has none."""


def find_faults(model: PreTrainedModel, info: Mapping[str, Any], part: Part) -> Faults:
    """What transformers found no place or no value for, less what this part does without.

    `model` is that of `part`, with or without weights.
    """
    needed = f"{model.base_model_prefix}." if part in STARTS else ""
    missing = {name for name in info["missing_keys"] if name.startswith(needed)}
    misshaped = {n: (a, b) for n, a, b in info[SIZES] if n.startswith(needed)}
    spare = [BUFFERS, *SPARE[part]]
    unexpected = {
        name for name in info["unexpected_keys"] if not any(each.search(name) for each in spare)
    }
    return Faults(
        missing=tuple(sorted(missing)),
        unexpected=tuple(sorted(unexpected)),
        misshaped={n: (tuple(a), tuple(b)) for n, (a, b) in sorted(misshaped.items())},
    )


def check_fit(
    model: PreTrainedModel,
    info: Mapping[str, Any],
    part: Part,
    place: Place,
) -> None:
    """Raise `UserError` unless what was loaded, or would be, is all of `model` and no more."""
    faults = find_faults(model, info, part)
    if not faults.count():
        return
    headers = read_headers(place, fetch=False)
    cause = _Cause(model, part, place, {} if headers is None else headers.shapes).of(faults)
    raise UserError(
        f"{place}: the tensors are not those of {type(model).__name__}: {faults}; {cause}"
    )


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why tensors are not those of a model, and what can be done."""

    model: PreTrainedModel
    part: Part
    place: Place
    shapes: Mapping[str, Shape]

    def of(self, faults: Faults) -> str:
        """The likely cause of these faults, with its remedy."""
        if any(UNMERGED.search(name) for name in faults.unexpected):
            return "it holds an unmerged adapter: merge it (peft's merge_and_unload), save it again"
        prefix = self._prefix(faults)
        if prefix is not None:
            remedy = (
                f"set {self.place.owner}.strip_prefix={prefix}"
                if self.place.owner
                else "save it with names that lack it"
            )
            return f"another trainer has put {prefix!r} in front of the names: {remedy}"
        trunk = f"{self.model.base_model_prefix}."
        if faults.missing and not any(name.startswith(trunk) for name in faults.missing):
            return self._headless(faults)
        if faults.misshaped and not faults.missing:
            return "config.json is not that of these weights"
        return "the files are incomplete, or config.json is another model's: fetch or save it again"

    def _prefix(self, faults: Faults) -> str | None:
        """What all names, or most of them, begin with, and without which they fit, or nearly."""
        if self.place.strip_prefix is not None:
            return None
        begin: Counter[str] = Counter()
        for name in self.shapes:
            parts = name.split(".")[:-1]
            begin.update(
                ".".join(parts[:depth]) for depth in range(1, min(len(parts), DEEPEST) + 1)
            )
        best, least = None, faults.count() / 2
        common = [p for p, count in begin.items() if count > len(self.shapes) / 2]
        for prefix in sorted(common, key=lambda found: (found != PEFT, len(found))):
            rules = renaming(prefix, self.place.head)
            left = find_faults(self.model, fit(self.model, self.shapes, rules), self.part).count()
            if left < least:
                best, least = f"{prefix}.", left
        return best

    def _headless(self, faults: Faults) -> str:
        """What is said where all but the head is there."""
        if self.part is Part.causal:
            return (
                "it brings no head of a language model, nor does config.json tie one to the "
                "embedding: it is a bare trunk or a classifier; use the model it was made from"
            )
        rules = self.place.renaming()
        named = {rename(name, rules): shape for name, shape in self.shapes.items()}
        width = self.model.config.get_text_config().hidden_size
        heads = {
            name.rpartition(".")[0]: shape
            for name, shape in named.items()
            if name in faults.unexpected and len(shape) == 2 and shape[1] == width
            if shape[0] <= MOST_LABELS
        }
        if not heads:
            return NO_SCORE
        name, shape = next(iter(heads.items()))
        remedy = (
            f"model.reward.head={name}"
            if self.place.owner == "model.reward"
            else f"model.reward.source=path model.reward.path={self.place.where} "
            f"model.reward.head={name}"
        )
        return (
            f"it brings no score head of transformers' name, but {name} of shape {shape} may be "
            f"one: set {remedy}"
        )


def first_line(error: Exception) -> str:
    """The first sentence of what an error says, with its kind where that is little."""
    lines = str(error).strip().splitlines() or [""]
    said = " ".join(map(str.strip, lines[: 1 + lines[0].endswith(":")])).rstrip(".: ")
    return said if " " in said else f"{type(error).__name__}: {said}".rstrip(": ")
