"""Rows 8, 9, and 20 as a whole command: what ends responses, closes texts, and has no name."""

from __future__ import annotations

import json
import math

import pytest

from case_models import CHATML, make_causal, make_tokenizer, save

from .conftest import Workplace, read_jsonl

SPARE = 200
PAID = [
    "dataset.format=prompt_completion",
    "dataset.label_column=null",
    "oracle.enabled=false",
    "judge=function",
    "reward_scheme=prompts",
    "sft.train=false",
    "model.context=192",
]
LONG = ["rollout.min_new_tokens=119", "rollout.max_new_tokens=120", "rollout.eos_masked_before=3"]
SHOWN = ["run.samples=32", "run.sample_every=1"]
SCHEME = '''\
"""The score on the last token; the ids of prompts are kept in a file."""

import json
from dataclasses import dataclass

from tokencredit.config import register_component
from tokencredit.ops import last_token
from tokencredit.rewards.scheme import RewardScheme


@dataclass(slots=True, kw_only=True)
class Prompts(RewardScheme):
    """r_last = R."""

    file: str = "prompts.jsonl"
    """Where the ids lie."""

    def token_rewards(self, rollout, judgement):
        with open(self.file, "a") as file:
            for ids, mask in zip(rollout.prompt_ids, rollout.prompt_mask):
                file.write(json.dumps(ids[mask].tolist()) + "\\n")
        return last_token(rollout.response_mask) * judgement.scores[:, None]


register_component("reward_scheme", Prompts)
'''


def furnish(place: Workplace) -> list[str]:
    """A model with two ends, a tokenizer that closes texts, and spare rows; sums to be solved."""
    folder = place.folder
    tokenizer = make_tokenizer(eos="</s>", bos="<s>", opens=True, closes=True, template=CHATML)
    save(folder / "model", make_causal(tokenizer, rows=len(tokenizer) + SPARE), tokenizer)
    rows = [{"prompt": f"{n} plus {n % 7} is"} for n in range(300)]
    (folder / "sums.json").write_text(json.dumps(rows), encoding="utf-8")
    score = "def score(prompts, responses):\n    return [len(r) / 100 for r in responses]\n"
    (folder / "mine.py").write_text(score, encoding="utf-8")
    (folder / "kept.py").write_text(SCHEME, encoding="utf-8")
    (folder / "conf" / "reward_scheme").mkdir(parents=True)
    option = f"# Keeps prompts.\ndefaults: [Prompts, _self_]\nfile: {folder / 'prompts.jsonl'}\n"
    (folder / "conf" / "reward_scheme" / "prompts.yaml").write_text(option, encoding="utf-8")
    return [
        *("--plugin", "kept.py", "--config-dir", "conf"),
        *("dataset=file", f"dataset.path={folder / 'sums.json'}", "tracking=disabled"),
        *("model.policy.source=path", f"model.policy.path={folder / 'model'}"),
        *(f"judge.function={folder / 'mine.py'}:score", "run.figures=false"),
    ]


@pytest.mark.slow
def test_case_8_9_20_ends_prompts_and_spare_rows_of_a_run(fresh: Workplace) -> None:
    place = Workplace(fresh.folder, fresh.store)  # without the other tests' model
    arguments = furnish(place)
    place.train(*arguments, *PAID, *LONG, "steps=2", *SHOWN, "run_dir=run").ok()
    metrics = read_jsonl(place.folder / "run" / "metrics.jsonl")
    assert len(metrics) == 2
    for row in metrics:
        assert 0 < row["length/finished"] < 1
        assert row["ppo/entropy"] < math.log(400), "ids without a name would add to it"

    tokens = [row["tokens"] for row in read_jsonl(place.folder / "run" / "samples.jsonl")]
    last = [response[-1] for response in tokens]
    assert {"</s>", "<|im_end|>"} <= {*last}, "either ends a response"
    inner = [token for response in tokens for token in response[:-1]]
    assert not {"</s>", "<|im_end|>"} & {*inner}, "and nothing follows it"
    assert all(inner) and all(last), "each id has a name"

    prompts = read_jsonl(place.folder / "prompts.jsonl")
    tokenizer = make_tokenizer(eos="</s>", bos="<s>", opens=True, closes=True)
    assert prompts
    for ids in prompts:
        assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids

    policy = place.folder / "run" / "policy"
    ends = json.loads((policy / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["</s>", "<|im_end|>"]
