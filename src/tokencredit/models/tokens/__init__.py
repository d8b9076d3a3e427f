"""Tokens and their bytes, in the vocabularies of two models."""
