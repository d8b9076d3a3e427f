"""Models against models, judged by an oracle."""
