"""Fingerprints of known data, as they were before records could have margins or lack answers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tokencredit.data.dataset import Dataset
from tokencredit.data.sources import Source
from tokencredit.data.splits import Corpus, Splits

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TOKENCREDIT_DATA", ROOT.parent / "shared" / "data"))
HH = DATA / "hh_rlhf" / "harmless_base_1800.jsonl.gz"
OWN = ROOT / "experiments" / "abc" / "summarisation"
SMALL = Splits(sft=0.25, reward=0.25, rl=0.2, oracle=0.15, eval=0.15)


def read(path: Path, layout: str, splits: Splits) -> dict[str, str]:
    source = Dataset(
        source=Source.path, path=str(path), format=layout, label_column=None, splits=splits
    )
    return source.read().fingerprints


def test_case_17_fingerprints_of_imdb_stay(imdb: Corpus) -> None:
    assert imdb.fingerprints == {
        "sft": "294952d00e77bbc6",
        "reward": "4c65e4f9f23f4e95",
        "rl": "d46b473d3caaf543",
        "oracle": "2430d60b20a46602",
        "eval": "b75e92470f256a5a",
    }


@pytest.mark.skipif(not HH.exists(), reason=f"no {HH.name} in $TOKENCREDIT_DATA")
def test_case_17_fingerprints_of_hh_rlhf_stay() -> None:
    assert read(HH, "hh", Splits()) == {
        "sft": "29b6a46f2a653927",
        "reward": "ee15bce0c9649c0a",
        "rl": "0c6ff9ac4d64e019",
        "oracle": "caeb2f20f5c3f9f8",
        "eval": "871cbe99aa325a4d",
    }


def test_case_17_fingerprints_of_both_layouts_of_tldr_stay() -> None:
    assert read(OWN / "comparisons.jsonl", "summaries", SMALL) == {
        "sft": "eaef609f0f6152ed",
        "reward": "8d11730b62693534",
        "rl": "495584821156e5b7",
        "oracle": "9dcfc42fa20d2097",
        "eval": "afc9788b40889a19",
    }
    assert read(OWN / "preference.jsonl", "preference", SMALL) == {
        "sft": "100ecd6a2c1be266",
        "reward": "0502f1e326635739",
        "rl": "648d22274e826008",
        "oracle": "e2e36ea73c88cc66",
        "eval": "642810e8a85b5ecb",
    }
