"""`judge mt-bench`: two turns of conversation, each graded from 1 to 10 by an LLM."""
