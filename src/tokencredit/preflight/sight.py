"""What can be seen of a run's models before any work, from configuration and headers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tokencredit.errors import UserError
from tokencredit.models.loading.fit import Part, skeleton
from tokencredit.models.loading.gguf_header import Header
from tokencredit.models.loading.model import ModelSource, Pretrained, load_tokenizer
from tokencredit.models.loading.place import Place
from tokencredit.models.loading.scratch import scratch_config
from tokencredit.models.loading.trunk import NO_SCORE
from tokencredit.models.loading.weights import examine, read_config
from tokencredit.models.tokens.padding import ensure_pad
from tokencredit.stages.base_model import base_of
from tokencredit.stages.context import Context
from tokencredit.stages.dpo import DPOStage
from tokencredit.stages.reward_model import RewardModelStage
from tokencredit.stages.sft import SFTStage
from tokencredit.stages.stage import Stage

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sight:
    """What can be seen of the model that a stage starts from, or has made."""

    stage: Stage
    source: Pretrained
    part: Part
    labels: int | None = None

    @cached_property
    def made(self) -> bool:
        """Whether the stage has run already."""
        return self.stage.is_there()

    @cached_property
    def place(self) -> Place | None:
        """Where its files lie now; None if they are still to be made."""
        context = self.stage.context
        if self.made:
            return Place(context.store.folder(self.stage))
        base = base_of(context, self.source)
        return base.place() if all(stage.is_there() for stage in base.parents().values()) else None

    @property
    def files(self) -> Place | None:
        """The folder or repository that the configuration names, if it is here."""
        named = self.source.source in {ModelSource.path, ModelSource.hub}
        return self.place if named else None

    @cached_property
    def header(self) -> Header | None:
        """What the GGUF file says that is still to be converted; None for other models."""
        if self.place is not None or not self.source.is_gguf():
            return None
        path = Path(str(self.source.path)).expanduser()
        return Header(path, f"{self.stage.context.config.model.key_of(self.source)}.path")

    @property
    def speaks(self) -> bool:
        """Whether its tokenizer is here."""
        return self.place is not None or self.header is not None

    @cached_property
    def model(self) -> PreTrainedModel | None:
        """The model without weights, once its tensors are known to fit; None: not to be seen."""
        if self.header is not None:
            return self.header.model(self.part, self.labels)
        shipped = self.source.source in {ModelSource.package, ModelSource.scratch}
        if shipped and not self.made and self.part is Part.classifier:
            key = self.stage.context.config.model.key_of(self.source)
            raise UserError(f"{key}.source = {self.source.source.value!r}: {NO_SCORE}")
        if self.place is None:
            model, scratch = self.stage.context.config.model, ModelSource.scratch
            ours = scratch_config(model) if self.source.source is scratch else None
            return None if ours is None else skeleton(self.part, ours, Place("scratch"))
        if self.made or shipped:
            return skeleton(self.part, read_config(self.place, self.labels), self.place)
        return examine(self.part, self.place, self.labels)

    @cached_property
    def config(self) -> PreTrainedConfig | None:
        """Its configuration."""
        if self.place is not None and self.source.source is ModelSource.package:
            return read_config(self.place)
        return None if self.model is None else self.model.config

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, as the stage will leave it."""
        if self.header is not None:
            tokenizer = self.header.tokenizer
        else:
            assert self.place is not None
            tokenizer = load_tokenizer(self.place.where, self.place.revision)
        ensure_pad(tokenizer)
        return tokenizer


class Sights:
    """The models of a run, each looked at when it is asked for."""

    def __init__(self, context: Context) -> None:
        """`context` is the run's."""
        config = context.config
        reward = RewardModelStage(context)
        finished = Part.start if config.reward_model.train else Part.classifier
        self.policy = Sight(SFTStage(context), config.model.policy, Part.causal)
        self.reward = Sight(reward, config.model.reward_source(), finished, reward.labels())
        self.dpo = Sight(DPOStage(context), config.model.dpo_source(), Part.causal)
