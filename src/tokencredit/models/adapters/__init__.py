"""Low-rank adapters: found, put on, chosen, merged away."""
