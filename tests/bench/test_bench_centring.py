"""`tokencredit bench centring`: its census, what it runs, its table, and its file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from dense_advantages import dense_advantages, dense_policy
from tokencredit.bench import centring, command
from tokencredit.bench.centring import HEADS, LANGUAGE_MODEL, Census, Found, Request, Subject
from tokencredit.bench.workload import Architecture, Size
from tokencredit.cli import app
from tokencredit.errors import UserError
from tokencredit.models.loading.trunk import backbone
from tokencredit.models.passes.games import PiContext

V = 211
SMALL = Size(architecture=Architecture.llama, layers=1, width=32, vocabulary=V)
REQUEST = Request(pairs=2, tokens=40, size=SMALL, rank=4, chunk=33, iterations=2, warm_up=1)
OPTIONS = "pairs tokens layers width vocabulary rank chunk threads iterations warm-up seed out"


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(REQUEST)


def test_pairs_fill_the_texts(subject: Subject) -> None:
    """Of 40 tokens a prompt has 5, the separator 8, and the answers the other 27: 13 and 14."""
    for name in HEADS:
        games = subject.games[name]
        assert games.ids.shape == (4, 39) and games.mask.sum(dim=1).tolist() == [27] * 4
        assert games.second.sum(dim=1).tolist() == [14, 14, 13, 13]
    assert subject.games[PiContext.independent.value].policy_ids.shape == (4, 18)
    assert subject.won.tolist() == [1, 1, -1, -1]


def test_only_what_each_trains_gets_a_gradient(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str) -> set[str]:
        subject._loss(name).backward()
        both = [*subject.model.named_parameters(), *subject.language_model.named_parameters()]
        found = {n for n, p in both if p.grad is not None and (p.grad != 0).any()}
        for module in (subject.model, subject.language_model):
            module.zero_grad(set_to_none=True)
        return found

    weights = {name for name, _ in subject.language_model.named_parameters()}
    assert trained(LANGUAGE_MODEL) == weights
    for name in HEADS:
        found = trained(name)
        assert {"head.up", "head.down.weight"} < found
        assert all("lora_" in n for n in found - {"head.up", "head.down.weight"})
        assert {n.split(".")[-4] for n in found if "lora_B" in n} >= {"q_proj", "down_proj"}
    subject.run(HEADS[0])
    assert all(p.grad is None for p in subject.model.parameters())


def test_the_language_models_loss_is_that_of_the_answer_tokens(subject: Subject) -> None:
    games = subject.games[HEADS[0]]
    with torch.no_grad():
        hidden = games.layout.take(backbone(subject.language_model)(games.ids).last_hidden_state)
        logits = subject.language_model.get_output_embeddings()(hidden)
        expected = torch.nn.functional.cross_entropy(logits, games.chosen)
        found = subject._loss(LANGUAGE_MODEL)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def dense_loss(subject: Subject) -> Tensor:
    """The same squared loss, from tensors of all answer tokens and all ids."""
    model, games = subject.model, subject.games[HEADS[0]]
    frozen, head = model.policy(games)
    states = games.layout.take(backbone(model.model)(games.ids).last_hidden_state)
    policy = dense_policy(frozen[games.places], head)
    said = games.layout.spread(dense_advantages(model.head, states, policy, games.chosen))
    return (subject.won - said.sum(dim=1)).square().mean()


def test_the_census_sees_a_dense_head_and_none_of_ours(subject: Subject) -> None:
    for name in HEADS:
        with Census(V, REQUEST.chunk, subject.model.parameters()) as ours:
            loss = subject._loss(name)
            loss.backward()
        assert ours.wide == []
        with Census(V, REQUEST.chunk - 1, subject.model.parameters()) as stricter:
            subject.run(name)
        assert {tuple(shape) for _, *shape in stricter.wide} == {(REQUEST.chunk, V), (V, 33)}
    with Census(V, REQUEST.chunk, subject.model.parameters()) as dense:
        plain = dense_loss(subject)
        forward = len(dense.wide)
        plain.backward()
    assert 0 < forward < len(dense.wide)
    assert {tuple(shape) for _, *shape in dense.wide} >= {(108, V)}
    assert plain.item() == pytest.approx(subject._loss(HEADS[0]).item(), abs=1e-5)
    subject.model.zero_grad(set_to_none=True)


def test_parameters_their_views_and_gradients_do_not_count() -> None:
    weight = torch.nn.Parameter(torch.ones(V, 6))
    frozen = torch.nn.Parameter(torch.ones(V, 5), requires_grad=False)
    with Census(V, 3, [weight, frozen]) as known:
        (weight.t().sum() * 2).backward()
        _ = frozen.t()[:4]
        assert known.wide == []
        _ = frozen * 1  # a copy of a frozen weight has no gradient's shape
    assert [shape for _, *shape in known.wide] == [[V, 5]]
    with Census(V, 3) as unknown:
        _ = weight.t()
    assert [shape for _, *shape in unknown.wide] == [[6, V]]


@pytest.mark.usefixtures("contained")
def test_what_is_measured_goes_through_json(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    found = centring.measure(Request.of(json.dumps(REQUEST.plain())), lines.append)
    assert Found.of(json.dumps(found.plain())) == found
    assert {name: len(each) for name, each in found.seconds.items()} == dict.fromkeys(
        [*HEADS, LANGUAGE_MODEL], 2
    )
    assert found.wide == [] and found.positions == 108
    assert any("head.up (211, 4)" in name for name in found.left_out)
    assert sum(line.startswith("round") for line in lines) == 3
    text = centring.table(REQUEST, found)
    assert "with more than 33 positions: none" in text and "pi_context=independent" in text


def test_the_numbers_of_the_table_by_hand() -> None:
    seconds = {HEADS[0]: [2.0, 3.0, 9.0], HEADS[1]: [1.0, 1.0, 1.0], LANGUAGE_MODEL: [2.0, 2, 4]}
    found = Found(
        parameters=3_000_000, positions=7, peaks_mb={"trunk": 100.0, HEADS[0]: 350.5, HEADS[1]: None},
        wide=[["aten.mm.default", 300, V]], left_out=["U (211, 4)"], seconds=seconds, settings={},
    )  # fmt: skip
    assert found.slower(HEADS[0]).median == 1.5 and found.slower(HEADS[1]).median == 0.5
    assert found.extra_mb(HEADS[0]) == 250.5 and found.extra_mb(HEADS[1]) is None
    text = centring.table(REQUEST, found)
    assert "3.000 (2.000–9.000)" in text and "1.50 (1.00–2.25)" in text and "+250" in text
    assert f"(300, {V})" in text and "3.0 M parameters" in text


def test_help_names_every_option() -> None:
    answer = CliRunner().invoke(app, ["bench", "centring", "--help"], env={"COLUMNS": "160"})
    text = re.sub(r"\x1b\[[0-9;]*m", "", answer.output)
    assert answer.exit_code == 0
    for option in OPTIONS.split():
        assert re.search(rf"--{option}\s.*\w", text), option


@pytest.mark.parametrize(
    ("option", "value"),
    [("--pairs", "0"), ("--tokens", "15"), ("--chunk", "0"), ("--rank", "0"), ("--rank", "65")],
)
def test_a_bad_value_names_its_option(option: str, value: str, tmp_path: Path) -> None:
    arguments = ["bench", "centring", "--width", "64", option, value, "--out", str(tmp_path / "x")]
    answer = CliRunner().invoke(app, arguments)
    assert isinstance(answer.exception, UserError)
    assert f"{option} = {value}" in str(answer.exception)
    assert not (tmp_path / "x").exists()


def test_the_defaults_are_those_of_the_issue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Request] = []

    def centred(request: Request) -> Found:
        made.append(request)
        seconds = {name: [1.0] for name in (*HEADS, LANGUAGE_MODEL)}
        peaks = dict.fromkeys((centring.TRUNK, *HEADS), 1.0)
        return Found(
            parameters=1, positions=1, peaks_mb=peaks, wide=[], left_out=[], seconds=seconds, settings={}
        )  # fmt: skip

    monkeypatch.setattr(command, "centred", centred)
    answer = CliRunner().invoke(
        app, ["bench", "centring", "--out", str(tmp_path)], catch_exceptions=False
    )
    assert answer.exit_code == 0
    (request,) = made
    assert (request.pairs, request.tokens, request.chunk, request.rank) == (4, 512, 128, 16)
    size = request.size
    assert (size.architecture.value, size.layers, size.width) == ("llama", 4, 1024)
    assert (size.vocabulary, request.iterations) == (128_256, 5)
    written = json.loads((tmp_path / "centring.json").read_text(encoding="utf-8"))
    assert written["request"]["chunk"] == 128 and {"cpu", "git_commit", "seconds"} <= set(written)


@pytest.mark.slow
def test_the_command_measures_in_the_environment_of_a_run(tmp_path: Path) -> None:
    small = "--pairs 1 --tokens 24 --layers 1 --width 32 --vocabulary 50 --rank 2 --threads 1"
    words = [sys.executable, "-m", "tokencredit.cli", "bench", "centring", *small.split()]
    answer = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode == 0, answer.stderr
    assert "round 6" in answer.stderr and "positions: none" in answer.stdout
    found = json.loads((tmp_path / "bench" / "centring.json").read_text(encoding="utf-8"))
    assert found["settings"]["MALLOC_MMAP_MAX_"] == "0" and len(found["seconds"]["concat"]) == 5
