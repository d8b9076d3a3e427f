"""The pages of TLCR, of cells that are made up: what each must say, with some cells and with all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from paper_runs import ROOT, write_whole_cell
from tokencredit.evaluation.opinions import read_opinions
from tokencredit.papers.page import write_page
from tokencredit.papers.scores import Line, write_scores

WITH_ROLLOUTS = ("ppo_seq", "remax", "ppo_synthetic", "tlcr_fixed", "tlcr", "word_list")
SECTIONS = ("Result", "Claims", "Was it fair?", "Tuning", "How far this can be trusted")
HEADS = (
    "Question.",
    "Primary comparison, named before the runs.",
    "Command.",
    "Setting.",
    "Cells.",
)


def templates(place: Path) -> Path:
    folder = place / "experiments"
    (folder / "tlcr").mkdir(parents=True)
    for path in (ROOT / "experiments" / "tlcr").glob("*.md.j2"):
        shutil.copy(path, folder / "tlcr")
    return folder


def cells(experiments: Path, task: str, gains: dict[str, float]) -> None:
    """Five seeds of each method, whose gold score on held-out prompts ends at its gain."""
    for method, gain in gains.items():
        for seed in range(5):
            gold = [gain * k / 21 + 0.01 * seed * (k % 3) for k in range(22)]
            kl = [0.5 * k for k in range(22)]
            ends = {"policy/perplexity": 30 + gain, "sft/oracle": 0.01 * seed}
            folder = experiments / "tlcr" / task
            write_whole_cell(folder, method, seed, kl=kl, gold=gold, task=task, ends=ends)


@pytest.mark.parametrize("name", ["main", "ablation_signs", "reward_comparison"])
def test_a_page_has_every_part_before_there_are_cells(name: str, tmp_path: Path) -> None:
    (page,) = write_page(f"tlcr/{name}", templates(tmp_path))
    text = page.read_text()
    assert "No cell is committed yet." in text and "no cells yet." in text
    assert all(f"## {section}\n" in text for section in SECTIONS)
    assert all(f"**{head}**" in text for head in HEADS)
    assert "**Expected, if the claims carry over.**" in text


def test_the_page_of_main_reads_its_cells(tmp_path: Path) -> None:
    folder = templates(tmp_path)
    gains = {name: 1.0 + 0.1 * place for place, name in enumerate(WITH_ROLLOUTS)}
    cells(folder, "main", gains | {"tlcr": 2.0, "word_list": 1.0})
    page, *images = write_page("tlcr/main", folder)
    text = page.read_text()
    assert [image.name for image in images] == ["tlcr_gold_frontier.png", "tlcr_on_the_way.png"]
    assert "for tlcr, the comparison declared before the runs" in text
    (control,) = [
        line for line in text.splitlines() if "(word_list − sft) / (tlcr − sft) =" in line
    ]
    assert "= 0.49" in control and "**supported**" in control, "half of the lead is the list's"
    (primary,) = [line for line in text.splitlines() if "**Primary:** " in line]
    assert "At equal distance" in primary and "**supported**" in primary and "5 nats" in primary
    over = {name: f"tlcr − {name} = +" for name in ("sft", "remax", "ppo_seq", "tlcr_fixed")}
    assert all(said in text for said in over.values()), "SFT's is from the others' evaluations"
    assert text.count("(word_list − sft) / (tlcr − sft)") == 2, (
        "once in words, once with its number"
    )


def test_the_page_of_main_shows_votes_where_people_were_asked(tmp_path: Path) -> None:
    folder = templates(tmp_path)
    votes = folder / "tlcr" / "main" / "votes" / "people.json"
    share = {"method": "tlcr", "share": 0.5, "low": 0.4, "high": 0.6}
    votes.parent.mkdir(parents=True)
    votes.write_text(json.dumps({"most_preferred": [share], "samples": 100}))
    (page,) = write_page("tlcr/main", folder, read_opinions)
    text = page.read_text()
    assert "nobody was asked" not in text and "50.00 [40.00, 60.00]" in text
    assert "policies of 2.6 M parameters that continue film reviews answer no question" in text


def test_the_page_of_signs_draws_lengths(tmp_path: Path) -> None:
    folder = templates(tmp_path)
    cells(folder, "ablation_signs", {"tlcr": 1.0, "tlcr_no_negative": 1.5, "tlcr_no_positive": 0.5})
    page, *images = write_page("tlcr/ablation_signs", folder)
    assert [image.name for image in images] == ["tlcr_signs.png"]
    assert "**Primary:** Without negative rewards" in page.read_text()


def test_the_page_of_rewards_reads_scores_of_the_runs_of_main(tmp_path: Path) -> None:
    folder = templates(tmp_path)
    for measure in ("sequence", "fixed", "continuous"):
        lines: list[Line] = [
            (method, seed, prompt, place + 0.1 * ((seed + prompt) % 3))
            for place, method in enumerate(("sft", "tlcr_fixed", "tlcr", "ppo_seq"))
            for seed in range(3)
            for prompt in range(5)
        ]
        path = folder / "tlcr" / "reward_comparison" / measure / "scores.csv"
        write_scores(lines, path)
    (page,) = write_page("tlcr/reward_comparison", folder)
    text = page.read_text()
    assert "**Primary:** Under the reward of a sequence TLCR comes close" in text
    assert "**contradicted**" in text, "PPO_seq wins everywhere"
    assert all(f"By {name}:\n\n| seeds × prompts" in text for name in ("sequence", "fixed"))
    lowest = [line for line in text.splitlines() if line.startswith("| SFT is rewarded")]
    found = {line.split("|")[3].split(":")[0].strip() for line in lowest}
    assert found == {"sequence", "fixed", "continuous"}
