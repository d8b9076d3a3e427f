"""Token-level credit in RLHF: which tokens earned the preference?

What stands in `__all__` is described in docs/python.md, and read when it is asked for.
"""

from tokencredit.machine.search_path import begin

begin()  # before any library is imported

# ruff: noqa: E402
from importlib import import_module
from typing import TYPE_CHECKING

from tokencredit.version import __version__

if TYPE_CHECKING:
    from tokencredit import functional
    from tokencredit.errors import UserError
    from tokencredit.surface.credited import Credit
    from tokencredit.surface.crediting import credit
    from tokencredit.surface.logged import Rows, runs, samples

__all__ = (
    "Credit", "Rows", "UserError", "__version__", "credit", "functional", "runs", "samples",
)  # fmt: skip
_PLACES = {
    "Credit": "tokencredit.surface.credited",
    "Rows": "tokencredit.surface.logged",
    "UserError": "tokencredit.errors",
    "credit": "tokencredit.surface.crediting",
    "functional": "tokencredit.functional",
    "runs": "tokencredit.surface.logged",
    "samples": "tokencredit.surface.logged",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_PLACES[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
