"""The advantage model as a stage makes it, keeps it, and reads it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tokencredit.errors import require
from tokencredit.models.adapters.adapter import own_adapter, save_on
from tokencredit.models.loading.model import Model, check_vocabulary
from tokencredit.models.loading.trunk import head_of, hidden_size
from tokencredit.models.loading.weights import check_context, load_causal, load_into
from tokencredit.models.passes.kernels import disable_dropout
from tokencredit.models.tokens.ends import special_ids
from tokencredit.store.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokencredit.models.advantage_model import AdvantageModel

HEAD: Final = "advantage_head.safetensors"
SETTINGS: Final = "advantage.json"


def with_head(
    model: PreTrainedModel,
    rank: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    centred: bool = True,
) -> AdvantageModel:
    """`model`, which has adapters, with a fresh head; ids without a token are impossible.

    Raises `UserError` for a rank that its hidden states do not have.
    """
    from tokencredit.models.advantage_model import AdvantageHead, AdvantageModel

    check_rank(rank, model)
    width, head = hidden_size(model), head_of(model)
    own = AdvantageHead(width, len(head.weight), rank).to(head.weight.device)
    spare = special_ids(tokenizer, model).spare_on(head.weight.device)
    return AdvantageModel(model, own, spare=spare, centred=centred)


def check_rank(rank: int, model: PreTrainedModel) -> None:
    """Raise `UserError` for a rank that the hidden states of `model` do not have."""
    width = hidden_size(model)
    require(
        rank <= width,
        "judge.rank",
        rank,
        f"is above the width of the model's hidden states, {width}; use at most that",
    )


def save_advantages(model: AdvantageModel, folder: Path, sft: Path) -> None:
    """Write adapters and head to `folder`, beside that of `sft`, the model beneath."""
    from safetensors.torch import save_file

    save_on(model.model, folder, sft)
    save_file(model.head.state_dict(), folder / HEAD)
    settings = {"rank": model.head.down.out_features, "centred": model.centred}
    write_json(folder / SETTINGS, settings)


def open_advantages(
    folder: Path, sft: Path, tokenizer: PreTrainedTokenizerBase, model: Model, device: str
) -> AdvantageModel:
    """The advantage model in `folder`, on the SFT model in `sft`, frozen.

    Raises `UserError` where the policy, whose `tokenizer` is given, writes in another vocabulary.
    """
    check_vocabulary(folder, tokenizer, "advantage model")
    adapter = own_adapter(folder, "advantage model")
    plain = load_causal(sft, model.dtype)
    check_context(plain.config, model.context, of="advantage model")
    disable_dropout(plain)
    adapted = adapter.filled(plain.to(device))
    settings = read_json(folder / SETTINGS)
    rank, centred = int(settings["rank"]), bool(settings["centred"])
    found = with_head(adapted, rank, tokenizer, centred=centred)
    load_into(found.head, folder / HEAD)
    return found.eval().requires_grad_(False)
