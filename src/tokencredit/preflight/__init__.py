"""What is wrong with a run and can be known before any work."""
