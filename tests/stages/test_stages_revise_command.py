"""`tokencredit revise`: edits are marked, costs are told before they arise, nothing is paid twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from built_stages import furnish
from judge_server import Answer, Behaviour, JudgeServer
from preferences import furnish_pairs
from tokencredit.cli import app
from tokencredit.commands.revise import marked, page
from tokencredit.data.revisions import BEGINS, ENDS, Contest, Flaw, Revision

Serve = Callable[[Behaviour], JudgeServer]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_pairs(tmp_path_factory.mktemp("pairs"), 40)


def revise(data: Path, store: Path, *more: str) -> str:
    """What the command prints on this data; it ends well."""
    fixed = ["dataset=pairs", f"dataset.path={data / 'pairs.jsonl'}", f"store={store}"]
    found = CliRunner().invoke(app, ["revise", *fixed, *more], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("It was bad.", "It was good.", "It was [-bad-]{+good+}."),
        ("so bad a film", "so a film", "so[- bad-] a film"),
        ("a film", "a good film", "a{+ good+} film"),
        ("same", "same", "same"),
        ("", "new", "{+new+}"),
    ],
)
def test_edits_are_marked(before: str, after: str, shown: str) -> None:
    assert marked(before, after, colour=False) == shown


def test_a_terminal_gets_colours_and_nothing_that_acts_on_it() -> None:
    assert marked("bad", "good\x07", colour=True) == (
        "\x1b[31;9mbad\x1b[0m\x1b[32;4mgood\\x07\x1b[0m"
    )


def test_a_page_tells_what_was_dropped() -> None:
    pairs = [Contest(row=n, prompt="How?", chosen="x", rejected="so bad") for n in (4, 7)]
    text = page(pairs, [Revision("so good", "kind"), Flaw.no_end], 2, colour=False)
    assert text.splitlines() == [
        "row 4",
        "prompt: How?",
        "edits (0.50): so [-bad-]{+good+}",
        "reason: kind",
        "",
        "row 7",
        "prompt: How?",
        "before: so bad",
        "dropped: no end marker",
    ]
    replies = {4: "not shown", 7: "I would say\x1b that " + "so " * 200}
    text = page(pairs[1:], [Flaw.no_end], 1, colour=False, replied=lambda c: replies[c.row])
    last = text.splitlines()[-1]
    assert last.startswith("reply: I would say\\x1b that so") and last.endswith("…")


def test_a_dropped_pair_shows_the_last_reply(serve: Serve, data: Path, tmp_path: Path) -> None:
    def behave(number: int, text: str) -> Answer:
        return Answer("still not" if "This is request 2" in text else "not so")

    endpoint = ["reviser.backend=endpoint", "reviser.endpoint.model=m"]
    url = f"reviser.endpoint.base_url={serve(behave).url}"
    text = revise(data, tmp_path, *endpoint, url, "--show", "2")
    assert text.count("reply: still not") == 2 and "not so" not in text


def test_the_list_shows_its_edits(data: Path, tmp_path: Path) -> None:
    text = revise(data, tmp_path, "--show", "2", "--limit", "3")
    assert text.count("edits (0.33): it was [-") == 2 and "3 pairs, 3 revised" in text
    assert "no calls, no tokens, no cost" in revise(data, tmp_path, "--dry-run")


def better(number: int, text: str) -> Answer:
    answer = text.partition("=== Other answer ===\n")[2].partition("\n=== End")[0]
    return Answer(f"Reason: kinder.\n{BEGINS}\n{answer} indeed\n{ENDS}")


def test_costs_are_told_before_and_nothing_is_paid_twice(
    serve: Serve, data: Path, tmp_path: Path
) -> None:
    server = serve(better)
    endpoint = [
        "reviser.backend=endpoint",
        f"reviser.endpoint.base_url={server.url}",
        "reviser.endpoint.model=m",
        "reviser.endpoint.price_in=1",
        "reviser.endpoint.price_out=2",
    ]
    told = revise(data, tmp_path, *endpoint, "--dry-run", "--limit", "5")
    assert "5 calls (0 of 5 are answered already)" in told and "cost about 0.0" in told
    assert server.requests == []
    text = revise(data, tmp_path, *endpoint, "--show", "3", "--limit", "5")
    assert len(server.requests) == 5 and "requests 5" in text
    assert text.count("{+ indeed+}") == 3 and text.count("reason: kinder.") == 3
    again = revise(data, tmp_path, *endpoint, "--show", "1")
    assert len(server.requests) == 5 and "requests 0" in again
    told = revise(data, tmp_path, *endpoint, "--dry-run", "--limit", "6")
    assert "1 calls (5 of 6 are answered already)" in told
    assert "cost not known" in revise(data, tmp_path, *endpoint[:3], "--dry-run", "--limit", "5")


def test_pairs_that_are_not_sampled_yet_give_a_bound(data: Path, tmp_path: Path) -> None:
    told = revise(
        data,
        tmp_path,
        "reviser.pairs=sampled",
        "reviser.backend=endpoint",
        "reviser.endpoint.base_url=http://127.0.0.1:9/v1",
        "reviser.endpoint.model=m",
        "reviser.held_out=7",
        "dpo.prompts=30",
        "--dry-run",
    )
    assert "at most 37 calls; their tokens are known once" in told
    assert "sampled_pairs" in told


def test_a_mistake_is_one_error(data: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["revise", "reviser.backend=endpoint", f"store={tmp_path}"])
    assert found.exit_code != 0
    assert "reviser.endpoint.base_url" in str(found.exception)
    found = CliRunner().invoke(app, ["revise", "reviser.backnd=file"])
    assert "reviser.backnd: unknown key, did you mean 'backend'?" in str(found.exception)


@pytest.mark.slow
def test_the_stages_before_are_made_in_processes_of_their_own(tmp_path: Path) -> None:
    place = furnish(tmp_path)
    model = ["model.policy.source=path", f"model.policy.path={place / 'model'}", "model.context=96"]
    small = ["reward_model.max_tokens=900", "reward_model.max_length=32", "sft.max_tokens=900"]
    sampled = ["reviser.pairs=sampled", "dpo.prompts=12", "dpo.held_out=3"]
    arguments = [
        "dataset=file",
        f"dataset.path={place / 'reviews.jsonl'}",
        "dataset.prompt.min_characters=20",
        f"store={tmp_path / 'store'}",
        "reviser.backend=chosen",
    ]
    asked = ["revise", *arguments, *model, *small, *sampled, "--show", "2"]
    found = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert found.output.count("edits (") == 2
    kinds = {path.name for path in (tmp_path / "store").iterdir() if path.is_dir()}
    assert {"sft", "reward_model", "sampled_pairs"} <= kinds and "revisions" not in kinds
