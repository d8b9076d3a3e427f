"""Pages for those who change the repository: what they name exists, and their code runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from architecture.test_architecture_page import wrong
from tokencredit import __version__
from tokencredit.canonical import canonical
from tokencredit.fields import added, named, number, retired
from tokencredit.rewards.scheme import RewardScheme

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONTRIBUTING, GLOSSARY, LOG = ROOT / "CONTRIBUTING.md", DOCS / "glossary.md", DOCS / "log.md"
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\d.]*\w)")
OLD_PAGE = re.compile(r"git:([0-9a-f]{7,40}), (?:`([^`]+)`|same path)")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """The cells of every row of a page's tables, without the lines above them."""
    lines = re.sub(r"^\|.*\n\|[-|]+\|\n", "", page, flags=re.MULTILINE).splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]


def targets() -> set[str]:
    """What `make` can make."""
    return set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))


def missing(page: str) -> list[str]:
    """Targets of make and scripts that a page's commands name, and that are not there."""
    made = re.findall(r"`make ([a-z-]+)[^`]*`", page)
    words = [w for kind, text in BLOCK.findall(page) if kind == "bash" for w in shlex.split(text)]
    files = [w for w in words if w.startswith("tests/")]
    return [f"make {t}" for t in made if t not in targets()] + [
        name for name in files if not (ROOT / name).exists()
    ]


def test_commands_of_the_contributing_page_exist() -> None:
    page = read(CONTRIBUTING)
    assert len(re.findall(r"`make ", page)) >= 10
    assert missing(page) == []
    text = "`make toast ARGS=1` `make docs`\n```bash\npython tests/none.py\n```"
    assert missing(text) == ["make toast", "tests/none.py"]


def test_every_target_that_people_use_is_on_the_contributing_page() -> None:
    told = set(re.findall(r"`make ([a-z-]+)", read(CONTRIBUTING)))
    assert targets() - told <= {"help", "train", "format", "clean"}


@pytest.mark.parametrize("page", [CONTRIBUTING, GLOSSARY, LOG], ids=lambda page: page.name)
def test_every_link_leads_to_what_it_names(page: Path) -> None:
    assert wrong(read(page), page.parent) == []


def test_the_fields_of_the_contributing_page_keep_keys() -> None:
    """The example is run: the renamed class has the key of the one that it was."""
    (code,) = (text for kind, text in BLOCK.findall(read(CONTRIBUTING)) if kind == "python")
    known = (added, named, number, retired, dataclass, RewardScheme)
    names: dict[str, Any] = {thing.__name__: thing for thing in known}
    exec(code, names)  # noqa: S102 — it is our own page

    @dataclass(slots=True, kw_only=True)
    class Fade(RewardScheme):
        rate: float = 0.7
        mode: str = "fast"

    for kind in (names["Fading"], Fade):
        kind.__abstractmethods__ = frozenset()
    assert canonical(names["Fading"]()) == canonical(Fade())
    assert canonical(names["Fading"](floor=0.1)) != canonical(Fade())


def test_the_glossary_is_in_order_and_names_code() -> None:
    entries = rows(read(GLOSSARY))
    assert len(entries) > 50 and {len(entry) for entry in entries} == {3}
    words = [word.lower() for word, _, _ in entries]
    assert words == sorted(words) and len(words) == len(set(words))
    for word, meaning, code in entries:
        assert meaning.endswith("."), word
        assert re.fullmatch(r"(\[`[\w.]+`\]\(\.\./[\w/.]+\.py\)(, )?)+", code), word


def test_words_that_newcomers_ask_for_are_in_the_glossary() -> None:
    words = {part for word, _, _ in rows(read(GLOSSARY)) for part in word.lower().split(", ")}
    asked = (
        "judge scheme scorer evidence causal look-ahead artifact stage key store cell experiment"
    )
    asked += " scale rollout oracle gae return advantage critic frontier reference recipe"
    assert {*asked.split(), "kl in nats", "equal kl"} <= words


@cache
def told(place: str) -> str:
    """What stands at the places that an entry of the log links to, older pages as well."""
    texts = [read(DOCS / link) for link in re.findall(r"\]\(([^)#]+)", place)]
    same = re.findall(r"\]\(\.\./([^)#]+)", place)
    for commit, path in OLD_PAGE.findall(place):
        shown = ["git", "show", f"{commit}:{path or same[0]}"]
        found = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            pytest.skip(f"no history here: {found.stderr.strip()}")
        texts.append(found.stdout)
    return without_commas("\n".join(texts))


def without_commas(text: str) -> str:
    """Thousands as one number."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text)


def unfounded(entry: list[str]) -> list[str]:
    """Numbers of an entry that no number at its places comes to, rounded to as many digits."""
    _, tried, measured, place = entry
    there = {float(text) for text in NUMBER.findall(told(place))}
    there |= {100 * value for value in there}
    claimed = NUMBER.findall(without_commas(f"{tried} {measured}"))
    digits = {text: len(text.partition(".")[2]) for text in claimed}
    return [
        text
        for text, places in digits.items()
        if not any(abs(value - float(text)) <= 0.5001 * 10**-places for value in there)
    ]


ENTRIES = rows(read(LOG))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry[1][:50])
def test_every_number_of_the_log_stands_where_it_says(entry: list[str]) -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry[0]) and len(entry) == 4
    assert unfounded(entry) == []


def test_a_number_from_nowhere_would_be_noticed() -> None:
    place = "[decision 20](adr/0020-floors-and-rooms.md)"
    assert unfounded(["2026-11-29", "232 files", "288 and 5.7", place]) == ["5.7"]


def test_the_citation_is_one_of_this_version() -> None:
    """The form of cff-version 1.2.0, as far as this file uses it."""
    cited = yaml.safe_load(read(ROOT / "CITATION.cff"))
    project = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert cited["version"] == project["version"] == __version__
    assert (cited["license"], cited["keywords"]) == (project["license"], project["keywords"])
    assert cited["authors"] == [{"name": "tokencredit contributors"}]
    assert len(cited["references"]) >= 2
    for paper in cited["references"]:
        assert paper["type"] in {"article", "conference-paper"} and paper["title"]
        assert (paper["type"] == "conference-paper") == ("conference" in paper)
        assert all({"family-names", "given-names"} <= author.keys() for author in paper["authors"])
        assert 2000 < paper["year"] <= 2026
        (identifier,) = paper["identifiers"]
        assert identifier["type"] == "doi" and identifier["value"].startswith("10.48550/arXiv.")
