"""Numbers in, numbers out: intervals, win rates, strengths."""
