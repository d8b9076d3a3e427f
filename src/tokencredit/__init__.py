"""Token-level credit in RLHF: which tokens earned the preference?"""

from tokencredit.machine.search_path import is_own_command, isolate

__version__ = "0.1.0"

isolate()  # before any library is imported
if is_own_command():
    from tokencredit.machine.later import put_off

    put_off("torch")
