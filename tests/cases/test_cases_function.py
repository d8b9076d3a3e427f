"""What a user's function may do and return: it works, or ends in one line with function and row."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import EOS_ID, handed, make_rollout, mask_of, speaking, train_tokenizer
from tokencredit.errors import UserError
from tokencredit.evaluation.compare.oracles import open_oracle
from tokencredit.judges.function import FunctionJudge
from tokencredit.machine.child import Heard
from tokencredit.machine.faults import LONGEST
from tokencredit.rewards.redistribute import Redistribute
from tokencredit.rewards.scheme import Evidence
from tokencredit.rewards.sparse import Sparse
from tokencredit.rollout import Judgement, Rollout
from tokencredit.user_code.guard import guarded

WORDS = train_tokenizer()
TEXTS = ("good", "the movie was bad", " ok")


def rollout_of(*texts: str) -> Rollout:
    """Responses to the records 10, 11, and so on."""
    tokens = [[*WORDS(text)["input_ids"]] for text in texts]
    mask = mask_of([len(row) for row in tokens])
    ids = torch.full(mask.shape, EOS_ID)
    for row, line in zip(ids, tokens, strict=True):
        row[: len(line)] = torch.tensor(line)
    made = make_rollout(mask.sum(dim=1).tolist())
    rows = torch.arange(10, 10 + len(texts))
    return replace(made, rows=rows, response_ids=ids, response_mask=mask)


Call = Callable[..., Judgement]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """What the judge makes of a function with this body."""

    def called(
        body: str, offsets: bool = False, meaning: Evidence = Evidence.signed, seconds: float = 60.0
    ) -> Judgement:
        path = tmp_path / "mine.py"
        parameters = "prompts, responses" + ", offsets" * offsets
        head = "import os, sys, time, random\nimport numpy as np\nimport torch\n"
        path.write_text(f"{head}def f({parameters}):\n{textwrap.indent(body, '    ')}\n")
        judge = FunctionJudge(function=f"{path}:f", meaning=meaning)
        scheme = Redistribute() if offsets else Sparse()
        context = handed(scheme=scheme, seconds=seconds)
        return judge.open(context, speaking(WORDS))(rollout_of(*TEXTS))

    return called


@pytest.mark.parametrize(
    "returned",
    [
        "[1, 2, 3]",
        "(1.0, 2.0, 3.0)",
        "(x for x in (1, 2, 3))",
        "map(float, '123')",
        "{1: 'a', 2: 'b', 3: 'c'}.keys()",
        "range(1, 4)",
        "np.array([1, 2, 3])",
        "np.array([1, 2, 3], dtype=np.float16)",
        "[np.float64(1), np.int32(2), torch.tensor(3.0)]",
        "torch.tensor([1.0, 2.0, 3.0], requires_grad=True)",
        "torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)",
        "[x * torch.ones((), requires_grad=True) for x in (1, 2, 3)]",
        "[__import__('decimal').Decimal(1), __import__('fractions').Fraction(2), 3]",
    ],
)
def test_case_5_numbers_of_every_kind_are_taken(call: Call, returned: str) -> None:
    scores = call(f"return {returned}").scores
    assert scores.tolist() == [1, 2, 3] and scores.dtype == torch.float32
    assert not scores.requires_grad and scores.device.type == "cpu"


def test_case_5_truth_is_a_number(call: Call) -> None:
    assert call("return ['o' in r for r in responses]").scores.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("None", "returned None where scores are wanted"),
        ("'123'", "returned '123' where scores are wanted"),
        ("{'a': 1, 'b': 2, 'c': 3}", "returned a value of type dict where scores are wanted"),
        ("{1.0, 2.0, 3.0}", "returned a value of type set"),
        ("1.0", "returned scores of shape () for 3 responses"),
        ("torch.tensor(1.0)", "returned scores of shape () for 3 responses"),
        ("[1.0, 2.0]", "returned scores of shape (2,) for 3 responses"),
        ("(1.0 for _ in iter(int, 1))", "returned scores of shape (4,) for 3 responses"),
        ("[[1.0], [2.0], [3.0]]", "returned scores of shape (3, 1)"),
        ("np.ones((3, 1))", "returned scores of shape (3, 1)"),
        ("torch.ones(3, device='meta')", "returned a Tensor without numbers as scores"),
        ("[1.0, None, 3.0]", "returned None for row 11, response 1"),
        ("[1.0, '2', 3.0]", "returned '2' for row 11, response 1"),
        ("[1.0, 2.0, 'x' * 200000]", "returned a value of type str for row 12, response 2"),
        ("[1.0, 2 + 1j, 3.0]", "the complex number (2+1j) for row 11, response 1"),
        ("np.array([1, 2, 3j])", "the complex number (1+0j) for row 10, response 0"),
        ("torch.tensor([1, 2, 3j])", "complex number"),
        ("[1.0, 2.0, float('nan')]", "nan for row 12, response 2, a number that is not finite"),
        ("[1.0, float('-inf'), 2.0]", "-inf for row 11, response 1, a number that is not finite"),
        ("[1.0, 1e300, 2.0]", "1e+300 for row 11, response 1, a number that is beyond float32"),
        ("[1.0, 10 ** 400, 2.0]", "row 11, response 1, a number that is beyond float32"),
        ("[{}, [], 3.0]", "row 10, response 0"),
    ],
)
def test_case_5_what_is_no_score_is_said_with_its_row(
    call: Call, tmp_path: Path, returned: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        call(f"return {returned}")
    text = str(caught.value)
    assert text.startswith(f"judge.function = '{tmp_path / 'mine.py'}:f'") and said in text
    assert len(text) < 2 * LONGEST and "\n" not in text


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ("[[-1.0] * len(o) for o in offsets]", "token 0 of row 10, response 0 has the evidence -1"),
        ("[[1.0] * len(o) for o in offsets[:2]]", "evidence for 2 of 3 responses"),
        ("[[1.0] * len(o) + [1.0] for o in offsets]", "row 10, response 0 has"),
        ("[[None] * len(o) for o in offsets]", "returned None for token 0 of row 10, response 0"),
        ("[None] * 3", "returned None where evidence of row 10, response 0 are wanted"),
        ("[[1e39] * len(o) for o in offsets]", "beyond float32"),
    ],
)
def test_case_5_what_is_no_evidence_is_said_with_its_token(
    call: Call, evidence: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        call(f"return [1.0] * 3, {evidence}", offsets=True, meaning=Evidence.nonnegative)
    assert said in str(caught.value)


def test_case_5_evidence_comes_as_tensors_and_generators_too(call: Call) -> None:
    for made in ("torch.ones(len(o), requires_grad=True)", "np.ones(len(o))", "(1 for _ in o)"):
        found = call(
            f"return (1 for _ in offsets), [{made} for o in offsets]",
            offsets=True,
            meaning=Evidence.nonnegative,
        )
        assert torch.equal(found.evidence, rollout_of(*TEXTS).response_mask.float())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("exit()", "raised SystemExit"),
        ("sys.exit('over')", "raised SystemExit (it called exit or sys.exit with 'over')"),
        ("raise SystemExit(0)", "raised SystemExit"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("class Odd(BaseException): pass\nraise Odd('so')", "raised Odd: so"),
        ("raise ValueError('x' * 200000)", "raised ValueError: xxx"),
        ("raise ValueError('a\\nb')", "raised ValueError: a b"),
        ("return f(prompts, responses)", "raised RecursionError"),
        ("assert 0, 'no'", "raised AssertionError: no"),
        ("import threading\nraise threading.BrokenBarrierError", "raised BrokenBarrierError"),
        ("input()", "raised"),
    ],
)
def test_case_5_what_a_function_raises_ends_in_one_line(
    call: Call, tmp_path: Path, body: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        call(body)
    text = str(caught.value)
    path = tmp_path / "mine.py"
    assert text.startswith(f"judge.function = '{path}:f' (asked about 3 responses, rows 10, 11, 12")
    assert said in text and len(text) < 2 * LONGEST and "\n" not in text
    if len(text) < LONGEST:
        assert f"({path}, line " in text


@pytest.mark.parametrize(
    "body",
    [
        "time.sleep(60)",
        "while True: pass",
        "try:\n    time.sleep(60)\nexcept Exception: pass",
        "while True:\n    try: time.sleep(60)\n    except BaseException as e: last = e",
        "return (time.sleep(60) for _ in responses)",
    ],
)
def test_case_5_a_function_that_hangs_is_left(call: Call, body: str) -> None:
    if "BaseException" in body:  # told twice
        body = body.replace("last = e", "count = globals().setdefault('c', []); count.append(e)\n")
        body += "    if len(globals().get('c', [])) > 1: raise c[-1]"
    with pytest.raises(UserError, match=r"has not returned after 0\.2 s.*run\.function_seconds"):
        call(body, seconds=0.2)


def test_case_5_what_a_function_changes_is_as_before(call: Call, tmp_path: Path) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    body = (
        "os.chdir('/')\nrandom.seed(1)\nnp.random.seed(1)\ntorch.manual_seed(1)\n"
        "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
        "torch.set_num_threads(2)\nsys.stdout = None\nsys.setrecursionlimit(400)\n"
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "torch.set_default_device('meta')\nreturn [1.0] * 3"
    )
    here, out = Path.cwd(), sys.stdout
    ending, depth = signal.getsignal(signal.SIGTERM), sys.getrecursionlimit()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    plain = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    call(body)
    assert drawn() == plain
    assert Path.cwd() == here and sys.stdout is out and torch.get_num_threads() == 1
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()
    assert signal.getsignal(signal.SIGTERM) is ending and sys.getrecursionlimit() == depth
    assert torch.zeros(1).device.type == "cpu"


def test_case_5_a_function_that_draws_goes_on_where_it_was() -> None:
    def draw() -> float:
        with guarded("a test that draws"):
            return random.random()

    assert len({draw() for _ in range(4)}) == 4


SCRIPT = """
import os, sys
from tokencredit.user_code.guard import guarded
from tokencredit.errors import UserError
for body in {bodies}:
    try:
        with guarded("mine"):
            exec(body)
        print("goes on", flush=True)
    except UserError as error:
        print("error:", error, flush=True)
"""
ENDS = {
    "os.fork()": "goes on",
    "os.fork() or exit()": "goes on",
    "os.fork() or 1 / 0": "goes on",
    "sys.stdout.close()": "goes on",
    "sys.stderr.close()": "goes on",
    "os.close(1)": "goes on",
    "sys.stdout.close(); print(1)": "error: mine: raised ValueError: I/O operation on closed file",
    "exit(3)": "error: mine: raised SystemExit (it called exit or sys.exit with 3); let it",
}


def test_case_5_a_copy_of_the_process_ends_and_output_stays_open() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(bodies=list(ENDS))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == len(ENDS), lines
    assert all(map(str.startswith, lines, ENDS.values())), lines


def test_case_5_a_parent_hears_long_messages_and_of_code_that_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tokencredit.machine import child

    answer, told = os.pipe()
    monkeypatch.setenv(child.MISTAKE, str(told))
    heard = Heard(answer)
    heard.listen()
    assert heard.mistake == "" and not heard.overdue()
    for _ in range(40):  # more than a pipe holds; nobody may wait for the other
        child.enter("mine", 5.0)
        child.leave()
        thread = threading.Thread(target=child.tell_parent, args=("é\n\ud83c" * 200000,))
        thread.start()
        thread.join(timeout=10)
        assert not thread.is_alive()
        heard.listen()
    assert heard.mistake.startswith("é\n") and len(heard.mistake) <= 2001 and not heard.inside
    other = Heard(os.dup(answer))
    child.enter("mine (rows 1, 2)", 0.0)
    other.listen()
    other.ended(os.getpid() + 1, 1)
    assert other.mistake == "" and list(other.inside) == [os.getpid()]
    other.ended(os.getpid(), 0)
    assert other.mistake.startswith("mine (rows 1, 2): the process ended with exit code 0")
    monkeypatch.setattr(child, "GRACE", -1.0)
    late = Heard(os.dup(answer), inside=dict(other.inside))
    assert late.overdue() and "has not returned after 0 s" in late.mistake


def test_case_5_an_oracle_of_ones_own_is_called_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from beside import ONE\ndef good(p, r): return [ONE] * len(r)\n"
        "def leaves(p, r): exit()\ndef text(p, r): return ['a'] * len(r)\n"
    )
    (tmp_path / "beside.py").write_text("ONE = 1.0\n")
    assert open_oracle(f"{path}:good", [], "cpu").rate(["p"], ["r"]) == [1.0]
    for name, said in (("leaves", "raised SystemExit"), ("text", "returned 'a' for row 0")):
        with pytest.raises(UserError, match=f"^--oracle = .*{said}"):
            open_oracle(f"{path}:{name}", [], "cpu").rate(["p"], ["r"])
