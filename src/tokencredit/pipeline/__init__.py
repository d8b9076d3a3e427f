"""Which stages a run needs, in whose process, and where its results are kept."""
