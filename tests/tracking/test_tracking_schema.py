"""The tracking group: composed by OmegaConf, checked field by field."""

from __future__ import annotations

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from tokencredit.errors import UserError
from tokencredit.tracking.tracking import Tracking, WandbMode


def test_it_composes_and_loads() -> None:
    node = OmegaConf.structured(Tracking)
    node.mode = "offline"
    node.tags = ["imdb"]
    loaded = OmegaConf.to_object(node)
    assert loaded == Tracking(mode=WandbMode.offline, tags=["imdb"])


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("project", "", "tracking.project = ''"),
        ("project", "a/b", "tracking.project = 'a/b'"),
        ("entity", "x" * 129, "tracking.entity"),
        ("timeout_seconds", 0.0, "tracking.timeout_seconds = 0.0"),
        ("timeout_seconds", 601.0, "tracking.timeout_seconds = 601.0"),
        ("tags", ["ok", ""], r"tracking.tags\[1\] = ''"),
        ("tags", ["x" * 65], r"tracking.tags\[0\]"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: object, named: str) -> None:
    with pytest.raises(UserError, match=named):
        Tracking(**{field: value})  # type: ignore[arg-type]


def test_composing_imports_no_wandb() -> None:
    program = "import sys, tokencredit.tracking.tracking as t; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
