"""One thing trained or measured once, then reused."""
