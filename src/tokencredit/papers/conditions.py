"""Why a panel of a table or figure shows no runs: which of its conditions excluded how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tokencredit.papers.entries import Entry, Panel
from tokencredit.papers.runs import Setting
from tokencredit.papers.sources import Source, lengths

Condition = tuple[str, Callable[[Setting], bool], Callable[[Setting], str]]
"""A condition as it stands in the entry, whether a setting meets it, and what the setting has."""


def missing(entry: Entry, panel: Panel, sources: Sequence[Source]) -> list[str]:
    """What must be said of a panel of which some methods, or all, have no runs."""
    settings = [run.setting for source in sources for run in source.runs]
    without = [
        method
        for method in entry.methods
        if not any(_fits(setting, _conditions(panel, [method])) for setting in settings)
    ]
    where = panel.title or panel.tasks[0]
    if len(without) == len(entry.methods):
        return [f"{where}: {_excluded(settings, _conditions(panel, without))}"]
    return [
        f"{where}, {entry.methods[method]}: {_excluded(settings, _conditions(panel, [method]))}"
        for method in without
    ]


def _conditions(panel: Panel, methods: Sequence[str]) -> list[Condition]:
    """The panel's conditions on settings, in the order in which they are asked."""
    found: list[Condition] = [
        (f"task {' or '.join(panel.tasks)}", lambda s: s.task in panel.tasks, lambda s: s.task),
        (f"method {' or '.join(methods)}", lambda s: s.method in methods, lambda s: s.method),
    ]
    if panel.lengths is not None:
        wanted = tuple(panel.lengths)
        text = f"lengths {'–'.join(map(str, wanted))}"
        found.append((text, lambda s: s.lengths == wanted, lengths))
    if panel.beta is not None:
        text = f"beta {panel.beta:g}"
        found.append((text, lambda s: s.beta in {None, panel.beta}, lambda s: f"{s.beta:g}"))
    return found


def _fits(setting: Setting, conditions: Sequence[Condition]) -> bool:
    return all(meets(setting) for _, meets, _ in conditions)


def _excluded(settings: Sequence[Setting], conditions: Sequence[Condition]) -> str:
    """Of so many runs, how many each condition excluded of those that met the ones before it."""
    parts, left = [], list(settings)
    for text, meets, of in conditions:
        out = Counter(of(setting) for setting in left if not meets(setting))
        left = [setting for setting in left if meets(setting)]
        if out:
            theirs = ", ".join(f"{name}: {count}" for name, count in sorted(out.items()))
            parts.append(f"{text} excludes {out.total()} ({theirs})")
    return f"no runs: of {len(settings)}, {', then '.join(parts)}"
