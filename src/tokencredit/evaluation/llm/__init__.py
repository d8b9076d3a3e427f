"""`judge llm`: an LLM says which of two answers is better, pair by pair."""
