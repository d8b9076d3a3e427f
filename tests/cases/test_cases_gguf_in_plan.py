"""What the header of a GGUF file shows is refused by `plan`, though its data part is cut off."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from case_gguf import Arrays, tiny_bpe, tiny_model, write_gguf
from case_models import plain
from case_plans import model, planned, refusal
from tokencredit.models.loading.gguf_header import Header

SHORT: Final = ["model.context=64", "sft.max_length=64", "reward_model.max_length=64"]
FINISHED: Final = "reward_model.train=false"


def lacking(tensors: Arrays) -> Arrays:
    return {name: t for name, t in tensors.items() if name != "blk.1.ffn_up.weight"}


def deeper(tensors: Arrays) -> Arrays:
    return tensors | {n.replace("blk.1", "blk.2"): t for n, t in tensors.items() if "blk.1" in n}


def narrower(tensors: Arrays) -> Arrays:
    return tensors | {"output_norm.weight": np.ones(31, dtype=np.float32)}


SPOILT: Final = {"lacking": lacking, "deeper": deeper, "narrower": narrower}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GGUF files without data, but for `whole`, and a model of another vocabulary."""
    place, bpe = tmp_path_factory.mktemp("shelf"), tiny_bpe()
    tiny = tiny_model(bpe.get_vocab_size())
    write_gguf(place / "whole.gguf", tiny, bpe)
    files = [write_gguf(place / "short.gguf", tiny, bpe)]
    files += [write_gguf(place / f"{n}.gguf", tiny, bpe, change=c) for n, c in SPOILT.items()]
    for path in files:
        path.write_bytes(path.read_bytes()[: Header(path).data_offset])
    plain(place / "plain")
    return place


REFUSED: Final = {
    "case 1, a tensor": ("policy:lacking", [], r"path = .*1 missing \(model\.layers\.1\.mlp\.up_proj"),
    "case 1, more layers": ("policy:deeper", [], r"path = .*9 unexpected \(blk\.2\.attn_k\.weight, "),
    "case 1, a shape": ("policy:narrower", [], r"1 of another shape \(model\.norm\.weight: \(31,\)"),
    "case 1, rewards": ("reward:lacking", [], r"model\.reward\.path = .*1 missing \(model\.layers"),
    "case 1, DPO": (
        "dpo:lacking", ["reward_scheme=rto", "judge=implicit", "dpo.train=false"],
        r"model\.dpo\.path = .*1 missing",
    ),
    "case 2, no head": ("reward:short", [FINISHED], r"model\.reward\.path = .*no score head, so it"),
    "case 2, the policy": ("policy:short", [FINISHED], r"model\.policy\.path = .*no score head, so"),
    "case 18, context": ("policy:short", ["model.context=65"], r"model\.context = 65: the model reads"),
    "case 18, layers": ("policy:short", ["judge.layer=2"], r"judge\.layer = 2: the model has 2 atten"),
    "case 18, vocabulary": ("reward:short", [], r"vocabulary differs .*model\.reward_reads=text"),
    "case 18, the data": ("policy:short", [], r"this is no complete GGUF file \(it is cut off before"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_case_18_a_gguf_file_is_judged_by_its_header(
    what: str, shelf: Path, tmp_path: Path
) -> None:
    named, more, said = REFUSED[what]
    role, _, name = named.partition(":")
    beside = [] if role == "policy" else model("policy", shelf / "plain")
    given = [*beside, *model(role, shelf / f"{name}.gguf"), *SHORT, *more]
    assert re.search(said, found := refusal(tmp_path, *given)), found


def test_case_18_a_whole_gguf_file_is_planned(shelf: Path, tmp_path: Path) -> None:
    for name in ("whole.gguf", "WHOLE.GGUF"):
        path = tmp_path / name
        path.write_bytes((shelf / "whole.gguf").read_bytes())
        found = planned(tmp_path, *model("policy", path), *SHORT)
        assert found[0].name == "base_model"
