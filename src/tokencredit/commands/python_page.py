"""The signatures of docs/python.md: `python -m tokencredit.commands.python_page docs/python.md`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Final

from tokencredit import functional
from tokencredit.commands.reference import attribute_docs
from tokencredit.surface.credited import Credit
from tokencredit.surface.crediting import credit
from tokencredit.surface.logged import Rows, runs, samples

MARK: Final = "<!-- What follows is written by `make docs`. -->\n"
"""Below it nothing is written by hand."""
WIDTH: Final = 100


def with_signatures(page: str) -> str:
    """The page with what stands below the mark written again."""
    above, found, _ = page.partition(MARK)
    assert found, "the mark is gone"
    return above + MARK + "\n" + "\n".join(sections())


def sections() -> Iterator[str]:
    """Every name with its signature and what its docstring says."""
    yield "## tokencredit\n"
    for function in (credit, runs, samples):
        yield described(function.__name__, function)
    yield f"### Credit\n\n{inspect.cleandoc(Credit.__doc__ or '')}\n"
    yield "| field | type | meaning |\n|---|---|---|"
    docs = attribute_docs(Credit)
    for item in fields(Credit):
        kind = item.type if isinstance(item.type, str) else item.type.__name__
        yield f"| `{item.name}` | `{kind}` | {' '.join(docs[item.name].split())} |"
    yield ""
    for method in (Credit.show, Credit.html, Credit.save, Credit.rows):
        yield described(method.__qualname__, method)
    yield f"### Rows\n\n{inspect.cleandoc(Rows.__doc__ or '')}\n"
    yield described(Rows.frame.__qualname__, Rows.frame)
    yield f"## tokencredit.functional\n\n{inspect.cleandoc(functional.__doc__ or '')}\n"
    for name in functional.__all__:
        yield described(name, getattr(functional, name))


def described(name: str, function: Callable[..., object]) -> str:
    """The heading, the signature, and the docstring of a function."""
    text = inspect.cleandoc(function.__doc__ or "")
    return f"### {name}\n\n```pyi\n{signature(name, function)}\n```\n\n{text}\n"


def signature(name: str, function: Callable[..., object]) -> str:
    """As it would be typed, on one line if it fits, else with a parameter on each."""
    found = inspect.signature(function)
    parts: list[str] = []
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        if parameter.name != "self":
            parts.append(shown(parameter))
    result = f" -> {plain(found.return_annotation)}"
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) <= WIDTH:
        return line
    inner = "".join(f"    {part},\n" for part in parts)
    return f"{name}(\n{inner}){result}"


def shown(parameter: inspect.Parameter) -> str:
    """A parameter as it is written in the source."""
    text = f"{parameter.name}: {plain(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    value = parameter.default
    if isinstance(value, Enum):
        return f"{text} = {type(value).__name__}.{value.name}"
    written = json.dumps(value) if isinstance(value, str) else repr(value)
    return f"{text} = {written}"


def plain(annotation: object) -> str:
    """An annotation, which stands in the source as it is; tensors by their short name."""
    return str(annotation).replace("torch.Tensor", "Tensor").replace("'", '"')


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_signatures(path.read_text(encoding="utf-8")), encoding="utf-8")
