"""Sampling responses, token by token."""
