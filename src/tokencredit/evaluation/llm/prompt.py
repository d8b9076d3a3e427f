"""What an LLM judge is asked, and how its reply is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from tokencredit.errors import UserError

PLACEHOLDERS: Final = ("prompt", "answer_a", "answer_b")
"""What a template must hold, each as $name or ${name}; a dollar sign itself is $$."""
SHIPPED: Final = ("dialogue", "instruction", "sentiment")

VERDICT: Final = re.compile(
    r"^[\s*_#>`]*(?:final\s+)?verdict[\s*_`]*:[\s*_`\"'(\[{$]*(?:\\boxed\{)?"
    r"(?:the\s+)?(?:(?:answer|response|assistant|option|output)\s+)?[\s*_`\"'(\[]*([AB])"
    r"[\s*_`\"')\]}$.]*$",
    re.IGNORECASE,
)
_TAG: Final = r"(think|thinking|thoughts?|reason|reasoning|analysis|scratchpad|reflection)"
THOUGHT: Final = re.compile(rf"[<\[◁]{_TAG}[>\]▷].*?[<\[◁]/\1[>\]▷]", re.IGNORECASE | re.DOTALL)
"""What a model says to itself before it answers."""
THOUGHT_BEFORE: Final = re.compile(
    rf".*(?:[<\[◁]/{_TAG}[>\]▷]|<\|channel\|>final<\|message\|>)", re.IGNORECASE | re.DOTALL
)
"""A thought that the chat template began, so that the reply holds its end alone."""
THOUGHT_AFTER: Final = re.compile(
    rf"^\s*(?:[<\[◁]{_TAG}[>\]▷]|<\|channel\|>analysis).*",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
"""A thought that begins a line and does not end."""
REMINDER: Final = (
    "\n\n(This is request {number}: an earlier reply had no verdict that could be read. End with "
    "one line that holds nothing but `Verdict: A` or `Verdict: B`.)"
)
REFUSAL: Final = re.compile(
    r"\b(?:I(?:['’]m| am) (?:sorry|unable)|I (?:cannot|can['’]t|won['’]t|will not|must decline)"
    r"|as an AI\b|unable to (?:assist|help|compare|comply))",
    re.IGNORECASE,
)


class Outcome(str, Enum):
    """What came of asking once."""

    A = "A"
    """The first answer shown is better."""
    B = "B"
    """The second is."""
    refusal = "refusal"
    """The judge would not say."""
    unparsable = "unparsable"
    """It said something else."""
    rejected = "rejected"
    """The endpoint did not take the request, say because it is too long."""


@dataclass(frozen=True, slots=True)
class JudgeTemplate:
    """The text of a request, with places for the prompt and the two answers."""

    name: str
    text: str

    def fill(self, prompt: str, answer_a: str, answer_b: str) -> str:
        """The request. Dollar signs in prompt and answers stay as they are."""
        values = {"prompt": prompt, "answer_a": answer_a, "answer_b": answer_b}
        return Template(self.text).substitute(values)


def load_template(name: str) -> JudgeTemplate:
    """A shipped template by name, or the user's own from a file.

    Raises `UserError` unless it holds every placeholder and no other.
    """
    if name in SHIPPED:
        place = resources.files("tokencredit.evaluation.llm") / "templates" / f"{name}.txt"
        return JudgeTemplate(name, place.read_text(encoding="utf-8"))
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"--template = {name!r}: there is no such file, and the templates that come with the "
            f"package are {', '.join(SHIPPED)}"
        )
    try:
        template = JudgeTemplate(path.name, path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"--template = {name!r}: must be UTF-8 text ({error})") from error
    _check(template, name)
    return template


def _check(template: JudgeTemplate, name: str) -> None:
    parts = Template(template.text)
    if not parts.is_valid():
        raise UserError(f"--template = {name!r}: a dollar sign that begins no name is written $$")
    found = set(parts.get_identifiers())
    if found != set(PLACEHOLDERS):
        wanted = ", ".join(f"${item}" for item in PLACEHOLDERS)
        has = ", ".join(f"${item}" for item in sorted(found)) or "none"
        raise UserError(f"--template = {name!r}: must hold {wanted} and no other; it holds {has}")


def answered(reply: str) -> str:
    """What a reply says after its reasoning, which may hold verdicts that it gives up again."""
    for reasoning in (THOUGHT, THOUGHT_BEFORE, THOUGHT_AFTER):
        reply = reasoning.sub("", reply)
    return reply


def parse(reply: str) -> Outcome:
    """A or B from the only verdict line behind the reasoning; two lines that differ, or none, are
    no verdict.
    """
    last = answered(reply)
    said = {found[1].upper() for line in last.splitlines() if (found := VERDICT.match(line))}
    if len(said) == 1:
        return Outcome(said.pop())
    return Outcome.refusal if not said and REFUSAL.search(last) else Outcome.unparsable
