"""The scripts of the comparison with TRL import each other by name, from their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

PEERS = Path(__file__).parents[2] / "experiments" / "benchmarks" / "peers"

sys.path.insert(0, str(PEERS))
