"""Rows of attention weights, read beside the model's own attention."""
