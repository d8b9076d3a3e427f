"""Files that tables, figures, and judges read, damaged or cut off: one error that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from case_machine import DEEP
from tokencredit.errors import UserError
from tokencredit.papers.kinds import read_entry
from tokencredit.papers.runs import read_csv
from tokencredit.papers.scores import read_scores
from tokencredit.store.files import Damaged, read_yaml
from tokencredit.store.jsonl import read_objects
from tokencredit.sweeps.sweep import cells

# Catalogue, tables, answers


@pytest.mark.parametrize("content", [b"[" * 5000, b"a: [1", "é: 1".encode("latin-1"), b"- 1", b"7"])
def test_yaml_of_the_catalogue_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    for reader in (read_yaml, read_entry):
        with pytest.raises(UserError) as caught:
            reader(path)
        assert str(path) in str(caught.value)


def test_an_entry_whose_panels_are_no_mappings_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("panels: [1, 2]\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml"):
        read_entry(path)


@pytest.mark.parametrize("content", [DEEP, b"{", b"\xff", b"7", b"[1]"])
@pytest.mark.parametrize("name", ["answers.json", "answers.jsonl"])
def test_answers_and_prompts_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_objects(path, "--answers")


@pytest.mark.parametrize("content", [b"\xff,\xfe\n1,2\n", b'"' + b"x" * 200_000 + b'",2\n'])
def test_tables_that_are_no_text_or_have_endless_fields_are_named(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "scores.csv"
    for reader in (read_scores, read_csv):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"scores\.csv"):
            reader(path)


CSV = (
    "task,method,beta,min_new_tokens,max_new_tokens,run,step,mean_reward,kl,value_loss,seed,status\n"
    "imdb,abc,0.1,8,16,0,0,0.125,0.25,1.5,0,complete\n"
    "imdb,abc,0.1,8,16,0,1,0.375,0.75,1.25,0,complete\n"
)


def test_a_run_csv_that_was_cut_anywhere_in_its_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cell.csv"
    path.write_text(CSV, encoding="utf-8")
    assert len(read_csv(path)[0]) == 2
    begin = CSV.rindex("imdb")
    for end in range(begin + 1, len(CSV)):
        path.write_text(CSV[:end], encoding="utf-8")
        with pytest.raises(Damaged, match=r"cell\.csv.*cut off"):
            read_csv(path)


def test_a_foreign_csv_without_a_last_line_ending_is_read(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    columns = CSV.splitlines()[0].split(",")
    lines = [",".join(line.split(",")[: columns.index("kl")]) for line in CSV.splitlines()]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_csv(path)[0].columns["mean_reward"] == [0.125, 0.375]
    path.write_text("\n".join(lines)[:-8], encoding="utf-8")
    with pytest.raises(Damaged, match=r"logs\.csv, line 3: ends before step"):
        read_csv(path)


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"provenance": []}', b'{"seeds": 3}'])
def test_the_file_beside_a_cell_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cell.csv").write_text(CSV, encoding="utf-8")
    (tmp_path / "cell.json").write_bytes(content)
    with pytest.raises(Damaged, match=r"cell\.json"):
        read_csv(tmp_path / "cell.csv")


def test_the_list_of_a_sweep_is_named(tmp_path: Path) -> None:
    (tmp_path / "cells.jsonl").write_text('{"number": 0}\n', encoding="utf-8")
    with pytest.raises(Damaged, match=r"cells\.jsonl"):
        cells(tmp_path)
