"""HTML pages that need no other file and run no script."""

from __future__ import annotations

from typing import Any


def render(template: str, **values: Any) -> str:
    """Return the page of `templates/`, in which every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tokencredit.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
