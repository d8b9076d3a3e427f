"""How fast this machine does a step of a run, and how fast it could."""
