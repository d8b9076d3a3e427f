"""From a configured source to weights in memory."""
