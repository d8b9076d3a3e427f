"""Token-level credit in RLHF: which tokens earned the preference?"""

from tokencredit.machine.search_path import begin

__version__ = "0.1.0"

begin()
