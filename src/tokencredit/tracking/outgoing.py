"""What leaves the run folder for W&B: ids and tables as it accepts them, and no secrets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from tokencredit.redaction import redacted

_SECRET_KEY = re.compile(
    r"(^|_)(api_?key|password|passwd|secret|credentials?|(access|auth|bearer|hf|hub)_token)$"
)

TABLE_COLUMNS: Final = ("step", "row", "prompt", "response", "score", "token_rewards")


def wandb_id(run_id: str) -> str:
    """Return `run_id` as W&B accepts it: letters, digits, - and _, at most 64 characters."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", run_id)[:64]
    if safe == run_id:
        return safe
    return f"{safe[:55]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def table_row(row: Mapping[str, Any]) -> list[Any]:
    """Return the cells of a sample row, in the order of `TABLE_COLUMNS`."""
    pairs = zip(row["tokens"], row["rewards"], strict=True)
    rewards = " ".join(f"{token.strip() or repr(token)}:{reward:+.3f}" for token, reward in pairs)
    return [row["step"], row["row"], row["prompt"], row["response"], row["score"], rewards]


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` in which the values of keys like api_key read (hidden)."""
    clean: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            clean[key] = without_secrets(value)
        elif isinstance(value, list):
            clean[key] = [without_secrets(x) if isinstance(x, Mapping) else x for x in value]
        else:
            hide = value and _SECRET_KEY.search(str(key).lower())
            clean[key] = "(hidden)" if hide else value
    return clean


def one_line(error: Exception) -> str:
    """Return `error` as one line; secrets of the environment are replaced by their names."""
    kind = "" if type(error) is ConnectionError else f"{type(error).__name__}: "
    return " ".join(redacted(f"{kind}{error}").split())[:200]
