"""Token-level credit in RLHF: which tokens earned the preference?"""

__version__ = "0.1.0"
