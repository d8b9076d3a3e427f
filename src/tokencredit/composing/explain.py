"""Hydra's and OmegaConf's errors in the user's terms: key, value, rule, options."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml
from hydra.errors import HydraException
from omegaconf.errors import (
    GrammarParseError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from tokencredit.composing.helptext import groups
from tokencredit.config import COMPONENTS, Config, present_name
from tokencredit.config_keys import unknown_key
from tokencredit.errors import UserError, nearest
from tokencredit.fields import field_names
from tokencredit.machine.faults import chain, fault, users_own
from tokencredit.user_code.plugins import conf_dir, is_ours

CAUSES = (HydraException, OmegaConfBaseException, yaml.MarkedYAMLError)
EXTRAS = {"optuna": "optuna", "ray": "ray", "submitit": "submitit"}
"""What brings Hydra's plug-ins whose names begin so."""
INTERNAL = re.compile(r"(full_key|object_type|reference_type)[:=]")


def explain(error: BaseException) -> UserError | None:
    """The user's mistake, or the machine's fault, behind an exception; None if it is neither."""
    links = list(chain(error))
    for link in links:
        if isinstance(link, UserError):
            return link
    known = fault(error) or users_own(error)
    if known is not None or not any(isinstance(link, CAUSES) for link in links):
        return known
    text = "\n".join(str(link) for link in links)
    return UserError(
        _bad_yaml(links) or _missing_option(text) or _unknown_key(links, text) or _plain(links)
    )


def _bad_yaml(links: Sequence[BaseException]) -> str | None:
    """A file that is not YAML, with the line where that shows."""
    for link in links:
        if isinstance(link, yaml.MarkedYAMLError) and link.problem_mark is not None:
            mark = link.problem_mark
            return f"{mark.name}, line {mark.line + 1}: is not YAML: {link.problem}"
    return None


def _missing_option(text: str) -> str | None:
    """An option that its group does not have, or a group that does not exist."""
    found = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if found is None:
        wrong = re.search(r"Could not override '([^'@]+)'\.\s*No match in the defaults list", text)
        if wrong is None:
            return None
        names = [*field_names(Config), "experiment", "scale"]
        return f"{wrong[1]}: there is no such key or group{nearest(wrong[1], names)}"
    own = found[1].startswith("hydra/")  # Hydra's groups have a stroke in their names
    group, _, name = found[1].rpartition("/") if own else found[1].partition("/")
    extra = EXTRAS.get(name.partition("_")[0]) if own else None
    if extra is not None:
        return f"{group} = {name!r}: is not installed; pip install 'tokencredit[{extra}]' brings it"
    if present_name(group, name) != name:
        return f"{group} = {name!r}: is called {present_name(group, name)!r} now"
    options = _options_of(group, text)
    known = f"; options: {', '.join(options)}" if options else ""
    return f"{group} = {name!r}: there is no such option{nearest(name, options)}{known}"


def _options_of(group: str, text: str) -> list[str]:
    """The options of a group, those of `text` where Hydra lists them; our classes are none."""
    if group == "experiment":
        return [option for option, _ in groups([conf_dir()])[group]]
    listed = re.search(r"Available options in '[^']*':\n((?:\s+.+\n?)+)", text)
    names = [line.strip() for line in listed[1].splitlines()] if listed else []
    classes = {kind.__name__ for kind in COMPONENTS.get(group, []) if is_ours(kind)}
    return [option for option in names if option and option not in classes]


def _unknown_key(links: Sequence[BaseException], text: str) -> str | None:
    """A key that its component does not have."""
    for link in links:
        kind, key = getattr(link, "object_type", None), getattr(link, "key", None)
        refused = isinstance(link, OmegaConfBaseException) and "not in" in str(link)
        if refused and key is not None and hasattr(kind, "__dataclass_fields__"):
            assert isinstance(kind, type)
            path = getattr(link, "full_key", None) or str(key)
            where = re.search(r"In '([^']+)'", text)
            return unknown_key(path, kind, f" (in conf/{where[1]}.yaml)" if where else "")
    attached = re.search(
        r"(?:append to config\. An item is already at '|Multiple values for )([\w./]*\w)",
        text,
    )
    return f"{attached[1]}: exists already; write it without '+'" if attached else None


def _plain(links: Sequence[BaseException]) -> str:
    """OmegaConf's own sentence about a value, with the override or the file that it stands in."""
    about_value = [link for link in links if isinstance(link, OmegaConfBaseException)]
    chosen = about_value[0] if about_value else links[0]
    lines = [line.strip() for line in str(chosen).splitlines()]
    message = "; ".join(line for line in lines if line and not INTERNAL.match(line))
    if isinstance(chosen, InterpolationResolutionError | GrammarParseError):
        message += "; ${…} stands for another key: as text it is written \\${…}, in quotes"
    everything = "\n".join(map(str, links))
    override = re.search(r"Error merging override (.+?)\.?$", everything, re.MULTILINE)
    file = re.search(r"In '([^']+)'", everything)
    place = override[1] if override else getattr(chosen, "full_key", None) or (file and file[1])
    return f"{place}: {message}" if place and not message.startswith(str(place)) else message
