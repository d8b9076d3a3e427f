"""Every program of the comparison does the same work, and can read what it is."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
import workload
from torch_side import ForceLengths, Watch, lengths_to_end
from workload import EOS, MINIBATCH, PAD, SETTINGS, prompts, uniform_lengths

PEERS = Path(workload.__file__).parent
TORCHLESS = [p for p in sorted(PEERS.glob("*.py")) if not p.stem.startswith(("serve_", "torch_"))]


def imports(path: Path) -> set[str]:
    """The top-level names that a script imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


def test_the_four_settings_are_those_of_the_comparison() -> None:
    a, b, c, d = (SETTINGS[name] for name in "abcd")
    assert [(s.rows, s.prompt_lengths[0], s.max_new) for s in (a, b, c)] == [
        (64, 8, 32),
        (16, 8, 12),
        (64, 8, 128),
    ]
    assert [s.response_tokens for s in (a, b, c)] == [2048, 192, 8192]
    assert [s.optimizer_steps for s in (a, b, c, d)] == [16, 4, 16, 16]
    assert all(len(set(s.response_lengths)) == 1 and not s.ends for s in (a, b, c))
    assert d.ends
    assert d.rows == 64
    assert all(8 <= length <= 64 for length in d.prompt_lengths)
    assert all(4 <= length <= 128 for length in d.response_lengths)


def test_drawn_lengths_are_the_same_everywhere() -> None:
    d = SETTINGS["d"]
    assert d.prompt_lengths[:6] == (62, 62, 11, 12, 55, 49)
    assert d.response_lengths[:6] == (33, 72, 50, 79, 82, 12)
    assert (sum(d.prompt_lengths), d.response_tokens, d.max_new) == (2532, 4799, 128)
    assert uniform_lengths(workload.LENGTH_SEED + 1, 64, 4, 128) != d.response_lengths


def test_lengths_reach_both_ends_of_their_range() -> None:
    assert set(uniform_lengths(0, 1000, 4, 8)) == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_prompts_are_words_of_the_right_length_and_all_differ(name: str) -> None:
    setting = SETTINGS[name]
    rows = prompts(setting)
    assert [len(row) for row in rows] == list(setting.prompt_lengths)
    assert len({tuple(row) for row in rows}) == setting.rows
    assert all(workload.FIRST <= word < workload.VOCABULARY for row in rows for word in row)
    assert prompts(setting) == rows


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_fit_minibatches_and_positions(name: str) -> None:
    setting = SETTINGS[name]
    assert setting.rows % MINIBATCH == 0
    assert max(setting.prompt_lengths) + setting.max_new <= workload.POSITIONS


def test_no_model_has_dropout() -> None:
    settings = workload.gpt2()
    numbers = [value for name, value in settings.items() if "drop" in name]
    assert numbers == [0.0] * 4


@pytest.mark.parametrize("path", TORCHLESS, ids=lambda path: path.stem)
def test_the_driver_needs_nothing_but_the_standard_library(path: Path) -> None:
    own = {each.stem for each in TORCHLESS}
    assert imports(path) - own <= set(sys.stdlib_module_names)


def test_imports_are_seen() -> None:
    assert {"torch", "tokencredit"} <= imports(PEERS / "serve_tokencredit.py")


def test_forced_rows_end_exactly_at_their_length() -> None:
    setting = SETTINGS["d"]
    force = ForceLengths(setting, [1, 2, 2], prompt_width=5)
    ids, scores = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 8)
    out = force(ids, scores)  # the second response token
    assert out is scores
    assert out[1:].argmax(dim=1).tolist() == [EOS, EOS]
    assert torch.softmax(out[1:], dim=1)[:, EOS].tolist() == [1.0, 1.0]
    assert out[0, EOS] == out[0, PAD] == -torch.inf
    assert (out[0, 2:] == 0).all()


def test_rows_that_end_by_length_never_see_eos_or_pad() -> None:
    force = ForceLengths(SETTINGS["a"], [32] * 64, prompt_width=8)
    for width in range(8, 40):
        out = force(torch.zeros(64, width, dtype=torch.long), torch.zeros(64, 4))
        assert (out[:, :2] == -torch.inf).all()
        assert (out[:, 2:] == 0).all()


def test_lengths_are_counted_up_to_the_first_end() -> None:
    rows = torch.tensor([[5, 5, EOS, PAD], [5, 5, 5, 5], [EOS, PAD, PAD, EOS]])
    assert lengths_to_end(rows).tolist() == [3, 4, 1]


def test_the_watch_counts_steps_and_sees_weights_move() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer, watch = torch.optim.SGD([weight], lr=0.5), Watch(weight)
    watch.start()
    for _ in range(2):
        weight.grad = torch.tensor([0.0, 1.0, -2.0])
        optimizer.step()
    assert (watch.steps, watch.change()) == (2, 2.0)
    watch.start()
    assert (watch.steps, watch.change()) == (0, 0.0)
