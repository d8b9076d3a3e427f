"""Programs in turns: small scripts that answer, crash, hang, or do something else than asked."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest
import rounds
from compare import commands_of, compare
from environments import is_complete, requirements
from programs import ENVIRONMENT, Program, ProgramFailed
from rounds import Clock, Played, order_of, play
from workload import SETTINGS

PEERS = Path(rounds.__file__).parent
B = SETTINGS["b"]

HONEST = """
    import sys
    from protocol import Iteration, conversation, serve

    def iterate():
        print("chatter of a library")
        return Iteration(2.0, 0.5, 0.5, 1.0, 192, 4, 1e-4)

    with conversation() as channel:
        channel.ready(program="honest", versions={"torch": "9.9"})
        serve(channel, iterate)
"""


def script(folder: Path, body: str, name: str = "program") -> list[str]:
    """The command of a program with this body."""
    path = folder / f"{name}.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(PEERS)!r})\n" + textwrap.dedent(body), "utf-8"
    )
    return [sys.executable, str(path)]


def changed(old: str, new: str) -> str:
    """The honest program with one thing changed."""
    assert old in HONEST
    return HONEST.replace(old, new)


def quiet() -> Clock:
    return Clock(10_000, lambda _: None)


def started(tmp_path: Path, body: str, timeout: float = 20.0) -> Program:
    return Program("it", script(tmp_path, body), tmp_path / "it.log", timeout)


def test_a_program_says_it_is_ready_and_answers(tmp_path: Path) -> None:
    program = started(tmp_path, HONEST)
    ready = program.ready()
    assert ready["program"] == "honest"
    assert 0 < ready["idle_rss_mb"] < 500
    answers = [program.iterate() for _ in range(2)]
    program.stop()
    assert [answer["whole"] for answer in answers] == [2.0, 2.0]
    assert answers[0]["idle_rss_mb"] == ready["idle_rss_mb"] <= answers[0]["peak_rss_mb"]
    assert (tmp_path / "it.log").read_text("utf-8") == "chatter of a library\n" * 2


def test_the_peak_is_counted_from_the_idle_process_on(tmp_path: Path) -> None:
    program = started(
        tmp_path,
        changed(
            "with conversation", "before = bytes(200 << 20)\n    del before\n    with conversation"
        ),
    )
    ready = program.ready()
    answer = program.iterate()
    program.stop()
    if not ready["peak_resets"]:
        pytest.skip("this system does not let a process reset its peak")
    assert answer["peak_rss_mb"] < ready["idle_rss_mb"] + 100


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (changed('print("chatter of a library")', 'raise RuntimeError("no memory")'), "no memory"),
        (changed('print("chatter of a library")', "import os; os._exit(7)"), "status 7"),
        (changed('print("chatter of a library")', 'channel._out.write("hm\\n")'), "not JSON"),
    ],
    ids=["raises", "dies", "babbles"],
)
def test_what_goes_wrong_is_said(tmp_path: Path, body: str, said: str) -> None:
    program = started(tmp_path, body)
    program.ready()
    with pytest.raises(ProgramFailed, match=said):
        program.iterate()
    program.stop()


def test_a_program_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    program = started(tmp_path, "import torch_of_another_world")
    with pytest.raises(ProgramFailed, match="No module named 'torch_of_another_world'"):
        program.ready()
    program.stop()


def test_a_program_that_hangs_is_ended(tmp_path: Path) -> None:
    program = started(tmp_path, "import time; time.sleep(60)", timeout=0.5)
    with pytest.raises(ProgramFailed, match=r"said nothing for 0 s|said nothing for 1 s"):
        program.ready()
    program.stop()
    assert program._process.returncode is not None


def test_programs_get_the_threads_of_the_comparison() -> None:
    assert ENVIRONMENT["OMP_NUM_THREADS"] == "2"
    assert ENVIRONMENT["GOMP_SPINCOUNT"] == "20000"


def test_every_round_begins_with_another_program() -> None:
    names = ["x", "y", "z"]
    assert [order_of(names, turn)[0] for turn in range(4)] == ["x", "y", "z", "x"]
    assert all(sorted(order_of(names, turn)) == names for turn in range(4))


def test_programs_take_turns_in_rotated_order_after_one_warm_up(tmp_path: Path) -> None:
    lines: list[str] = []
    commands = {name: script(tmp_path, HONEST) for name in ("x", "y")}
    played = play(B, commands, 2, Clock(10_000, lines.append), tmp_path)
    assert [line.partition(":")[0] for line in lines] == [
        "b warm-up x",
        "b warm-up y",
        "b round 1 y",
        "b round 1 x",
        "b round 2 x",
        "b round 2 y",
    ]
    assert all(len(done.rounds) == 2 and done.failed == 0 for done in played.values())
    assert all(done.warm_up is not None for done in played.values())


def test_a_program_that_crashes_is_counted_and_the_others_go_on(tmp_path: Path) -> None:
    body = changed(
        'print("chatter of a library")',
        "count = globals().setdefault('seen', [])\n        count.append(1)\n"
        "        assert len(count) < 3, 'third call'",
    )
    commands = {"good": script(tmp_path, HONEST), "bad": script(tmp_path, body, "bad")}
    played = play(B, commands, 4, quiet(), tmp_path)
    assert played["good"].failed == 0
    assert [row is not None for row in played["bad"].rounds] == [True, False, False, False]
    assert played["bad"].failed == 3
    assert played["bad"].failures == ["AssertionError: third call"]


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ("191, 4, 1e-4", "response_tokens = 191, not 192"),
        ("192, 3, 1e-4", "optimizer_steps = 3, not 4"),
        ("192, 4, 0.0", "no weight changed"),
    ],
)
def test_other_work_is_a_failure(tmp_path: Path, numbers: str, why: str) -> None:
    body = changed("192, 4, 1e-4", numbers)
    played = play(B, {"cheat": script(tmp_path, body)}, 1, quiet(), tmp_path)
    assert played["cheat"].failures == [why]
    assert played["cheat"].rounds == [None]


def test_the_clock_tells_what_is_left() -> None:
    lines: list[str] = []
    clock = Clock(300, lines.append)
    clock.tick("first", 100, 30.0)
    assert lines == ["first: 30.00 s; about 1.0 min left"]


def test_results_are_written_with_every_round(tmp_path: Path) -> None:
    commands = {"tokencredit": script(tmp_path, HONEST), "peer": script(tmp_path, HONEST, "peer")}
    played = compare(["b"], commands, 2, tmp_path / "out", {"absent": "not there"})
    assert isinstance(played["b"]["peer"], Played)
    raw = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert raw["machine"]["threads"] == 2
    assert raw["machine"]["cpu"]
    assert raw["missing"] == {"absent": "not there"}
    assert [row["whole"] for row in raw["settings"]["b"]["peer"]["rounds"]] == [2.0, 2.0]
    assert raw["settings"]["b"]["peer"]["facts"]["versions"] == {"torch": "9.9"}
    assert raw["ratios"]["b"]["peer"]["paired"]["median"] == 1.0
    assert "`absent` is missing" in (tmp_path / "out" / "compare.md").read_text("utf-8")


def test_programs_that_nobody_knows_are_missing_by_name(tmp_path: Path) -> None:
    found, missing = commands_of(["tokencredit", "verl"], tmp_path)
    assert list(found) == ["tokencredit"]
    assert missing["verl"].startswith("no such program; there are trl-0.11.4, trl-0.29.1")


@pytest.mark.parametrize("name", ["trl-0.11.4", "trl-0.29.1"])
def test_pins_name_the_peer_and_one_torch(name: str) -> None:
    pins = requirements(name).read_text("utf-8").splitlines()
    assert f"trl=={name.removeprefix('trl-')}" in pins
    assert "torch==2.13.0" in pins
    assert all("==" in pin for pin in pins if not pin.startswith("#"))


def test_an_environment_of_other_pins_is_not_complete(tmp_path: Path) -> None:
    folder = tmp_path / "trl-0.11.4"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "complete").write_text("the hash of other pins", "ascii")
    assert not is_complete("trl-0.11.4", tmp_path)
