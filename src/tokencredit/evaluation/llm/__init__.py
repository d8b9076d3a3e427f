"""Answers against answers, judged by an LLM."""
