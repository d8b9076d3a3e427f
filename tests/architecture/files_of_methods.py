"""Which files a method cost, by part, and how many: `python -m architecture.files_of_methods`.

Commits mix a method with much else, so its files are listed here by hand: those that the commits of
each part touched and that are there today, and those that name it. A test finds every file that
names the method's things and is not listed. What does not count is what `files_touched` does not
count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from architecture.files_touched import BESIDE, Touched, counted

ROOT = Path(__file__).parents[2]
SEARCHED = ("src", "conf")
WANTED = 12
"""Files that a judge with its stage, labels, and schemes should cost at most."""


@dataclass(frozen=True, slots=True)
class Method:
    """The files of a method by part, as patterns below the repository; each file in one part."""

    names: re.Pattern[str]
    """What the method's own things are called, in files and in their names."""
    parts: Mapping[str, Sequence[str]]
    """Those that are counted together."""
    apart: Mapping[str, Sequence[str]]
    """Those that are counted by themselves."""

    def files(self, part: str, root: Path = ROOT) -> list[Touched]:
        """The files of a part, by name."""
        patterns = {**self.parts, **self.apart}[part]
        found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
        return [Touched(path.relative_to(root).as_posix()) for path in sorted(found)]

    def together(self, root: Path = ROOT) -> list[Touched]:
        """The files of the parts that are counted together."""
        return [file for part in self.parts for file in self.files(part, root)]


METHODS = {
    "tlcr": Method(
        names=re.compile(
            r"discriminator|tlcr|data\.edits|token_numbers|soft_label_loss|edit_loss"
            r"|reliability_bins|critic_from|critic_role",
            re.IGNORECASE,
        ),
        parts={
            "labels": (
                "src/tokencredit/data/edits.py",
                *("pyproject.toml", "constraints.txt"),  # rapidfuzz
            ),
            "schemes": (
                "src/tokencredit/rewards/tlcr.py",
                "src/tokencredit/config.py",
                "conf/reward_scheme/tlcr*.yaml",
            ),
            "judge": (
                "src/tokencredit/judges/discriminator.py",
                "src/tokencredit/models/discriminator.py",
                "conf/judge/discriminator.yaml",
            ),
            "stage": (
                "src/tokencredit/stages/discriminator.py",
                "src/tokencredit/stages/catalogue.py",
                "src/tokencredit/stages/results.py",
                "src/tokencredit/ops.py",
                "src/tokencredit/statistics/token_numbers.py",
                "src/tokencredit/statistics/pair_numbers.py",
                "src/tokencredit/reports/figures.py",
            ),
        },
        apart={
            "critic from the judge": (
                "src/tokencredit/judges/judge.py",
                "src/tokencredit/models/critic.py",
                "src/tokencredit/models/value.py",
                "src/tokencredit/preflight/models.py",
                "src/tokencredit/rl/load.py",
                "src/tokencredit/stages/rl.py",
            ),
            "reviser": (
                "src/tokencredit/reviser_settings.py",
                "src/tokencredit/stages/revis*.py",
                "src/tokencredit/data/revisions.py",
                "src/tokencredit/data/polar_words.py",
                "src/tokencredit/assets/polar_words.tsv",
                "src/tokencredit/assets/revise.txt",
                "src/tokencredit/commands/revise.py",
                "src/tokencredit/cli.py",
                "src/tokencredit/endpoint/client.py",
                "src/tokencredit/endpoint/kept.py",
                "src/tokencredit/endpoint/settings.py",
                "src/tokencredit/pipeline/p*.py",
                "src/tokencredit/pipeline/worker.py",
            ),
            "baselines": (
                "src/tokencredit/judges/bradley_terry.py",
                "src/tokencredit/stages/bradley_terry.py",
                "src/tokencredit/stages/figa.py",
                "src/tokencredit/stages/judge_stage.py",
                "src/tokencredit/stages/preference_model.py",
                "src/tokencredit/settings.py",
                "src/tokencredit/training_settings.py",
                "conf/judge/bradley_terry.yaml",
                "conf/algorithm/figa.yaml",
            ),
            "evaluation": (
                "src/tokencredit/evaluation/mt_bench/*.py",
                "src/tokencredit/evaluation/llm/templates/grade.txt",
                "src/tokencredit/evaluation/opinions.py",
                "src/tokencredit/evaluation/people.py",
                "src/tokencredit/evaluation/verdict_report.py",
                "src/tokencredit/evaluation/compare/generate.py",
                "src/tokencredit/commands/judge*.py",
                "src/tokencredit/rl/evaluate.py",
                "src/tokencredit/rl/perplexity.py",
                "src/tokencredit/statistics/difficulty.py",
                "src/tokencredit/statistics/length_control.py",
            ),
            "catalogue": (
                "src/tokencredit/papers/catalogue/tlcr/*.yaml",
                "src/tokencredit/papers/answers.py",
                "src/tokencredit/papers/held_out.py",
                "src/tokencredit/papers/judged.py",
                "src/tokencredit/papers/mean_scores.py",
                "src/tokencredit/papers/opinions.py",
                "src/tokencredit/papers/token_maps.py",
            ),
            "experiments": (
                "conf/experiment/tlcr/*.yaml",
                "conf/scaled/tlcr/*.yaml",
                "conf/dataset/tlcr_*.yaml",
                "conf/algorithm/*_tlcr_*.yaml",
                "conf/algorithm/ppo_deepspeed_chat.yaml",
                "conf/hardware/a100x8_mixed.yaml",
                "src/tokencredit/hardware.py",  # its stage is one that processes share
                "conf/model/llama2_7b.yaml",
                "conf/method/tlcr*.yaml",
                *(f"conf/method/{name}.yaml" for name in ("ppo_s*", "remax", "figa", "word_list")),
                "conf/tuned/tlcr/*/*.yaml",
            ),
        },
    )
}


def naming(method: Method, root: Path = ROOT) -> Iterator[str]:
    """The files below src/ and conf/ that name the method's things, in their text or their name."""
    for folder in SEARCHED:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and "__pycache__" not in name:
                text = path.read_text(encoding="utf-8", errors="replace")
                if method.names.search(name) or method.names.search(text):
                    yield name


def listing(name: str, method: Method, root: Path = ROOT) -> str:
    """Every counted part with its files, the sum of these, and the other parts' numbers."""
    lines = [f"{name}, by part:"]
    for part in method.parts:
        files = method.files(part, root)
        kept = counted(files)
        lines.append(f"{part}: {len(kept)}")
        lines += [f"{'*' if file in kept else ' '} {file.path}" for file in files]
    total = len(counted(method.together(root)))
    said = f"{total} files (wanted: at most {WANTED}; not counted: {BESIDE})"
    lines.append(f"{' + '.join(method.parts)}: {said}")
    numbers = (f"{part} {len(counted(method.files(part, root)))}" for part in method.apart)
    return "\n".join([*lines, f"apart: {', '.join(numbers)}"])


def main() -> int:
    """Print the listing of every method."""
    print("\n\n".join(listing(name, method) for name, method in METHODS.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
