"""`tokencredit train --help`: keys, groups and their options, which are read from the folders that
hold them, and real commands."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

HEAD = """\
tokencredit train [--plugin FILE_OR_MODULE]… [-m] [GROUP=OPTION]… [KEY=VALUE]…

Trains SFT → reward model → RL from one configuration, pays each token by a reward scheme, evaluates the
policy on held-out prompts, and keeps every stage for the next run. `tokencredit plan` with the same
arguments says what would be reused and what would run.

"""
PLAN = """\
tokencredit plan [--plugin FILE_OR_MODULE]… [-m] [GROUP=OPTION]… [KEY=VALUE]…

Says what `tokencredit train` with the same arguments would do, and does nothing of it: no model is
loaded, trained, or written. What `train` would refuse before its first stage, `plan` refuses in the
same words, with exit code 2.

One line a stage, parents first, and a line with the sum
  hit   STAGE  KEY  FOLDER       its result is there and undamaged, and would be reused
  miss  STAGE  KEY  STATE        it would run, or go on from where it stopped
          KEY: OLD → NEW         below a miss: each input in which the nearest kept result differs

"""
GROUPS = "Groups (choose with GROUP=OPTION; * marks the default)\n"
TAIL = """
Keys (set with KEY=VALUE; all of them: `tokencredit train --cfg job`, explained in docs/config.md)
{keys}

Commands
  tokencredit train
  tokencredit train reward_scheme=sparse steps=200 seed=1
  tokencredit train -m reward_scheme=sparse,uniform,abc seed=0,1,2
  tokencredit train dataset=file dataset.path=reviews.jsonl judge=function judge.function=my.py:score reward_scheme=sparse
  tokencredit train --plugin my_scheme.py --config-dir my_conf reward_scheme=mine
  tokencredit train model=smollm2_135m steps=3 sft.max_tokens=20000 reward_model.max_tokens=20000
  tokencredit train -m experiment=abc/positive_generation scale=cpu hydra/launcher=joblib

Flags
  -m, --multirun      every combination of comma-separated values, each a run of its own
  --plugin X          import a Python file or module with components of your own first (repeatable)
  --config-dir DIR    more YAML groups, laid out like conf/
  --cfg job           print the composed configuration and stop
  --hydra-help        Hydra's own flags
"""
SENTENCE_END = re.compile(r"[.?!]\)?$|\w=\S+$")
"""A line ends there with its sentence, or with an example of KEY=VALUE."""
HIDDEN = {"scaled", "tuned", "hydra"}
PLAIN_DEFAULT = {"experiment": "null"}


def help_text(
    folders: Sequence[Path],
    *,
    keys: Sequence[str] = (),
    plan: bool = False,
    width: int | None = None,
) -> str:
    """The whole text of `train`, or of `plan`; `folders` hold the groups, the project's own first.

    `keys` are those of no group.

    Descriptions that are wider than `width` columns go on below; None: lines of any length.
    """
    lines = []
    defaults = chosen_defaults(folders[0] / "train.yaml")
    for group, options in sorted(groups(folders).items()):
        lines.append(f"  {group}")
        for name, about in options:
            mark = "*" if defaults.get(group) == name else " "
            line = f"   {mark} {name:<28} {about}".rstrip()
            lines += line_of(line, width) if width else [line]
    named = f"{' '.join(keys)} and those of each group: reward_scheme.beta=1"
    shown = textwrap.fill(named, 104, initial_indent="  ", subsequent_indent="  ")
    tail = TAIL.replace("{keys}", shown)
    tail = tail.replace("  tokencredit train", "  tokencredit plan") if plan else tail
    return (PLAN if plan else HEAD) + GROUPS + "\n".join(lines) + "\n" + tail


def line_of(text: str, width: int) -> list[str]:
    """An option's line, broken where it is too wide; its description stays in one column."""
    return textwrap.wrap(text, max(width, 60), subsequent_indent=" " * 34, break_on_hyphens=False)


def groups(folders: Iterable[Path]) -> dict[str, list[tuple[str, str]]]:
    """Every group with its options and what the first comment of each file says."""
    found: dict[str, list[tuple[str, str]]] = {}
    for folder in folders:
        for path in sorted(folder.glob("*/**/*.yaml")):
            group, *rest = path.relative_to(folder).with_suffix("").parts
            if group not in HIDDEN:
                found.setdefault(group, []).append(("/".join(rest), first_comment(path)))
    return found


def first_comment(path: Path) -> str:
    """The first sentence of a YAML file's first comment that is no directive and no command."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if line.startswith("#") and text and not text.startswith(("@package", "tokencredit ")):
            found.append(text)
            if SENTENCE_END.search(text):
                break
        elif found:
            break
    return " ".join(found)


def chosen_defaults(path: Path) -> dict[str, str]:
    """The option that each group has when nothing is said."""
    from omegaconf import OmegaConf

    chosen = dict(PLAIN_DEFAULT)
    for entry in OmegaConf.to_container(OmegaConf.load(path))["defaults"]:  # type: ignore[index,call-overload]
        if isinstance(entry, dict):
            chosen |= {str(group): str(option) for group, option in entry.items()}
    return chosen
