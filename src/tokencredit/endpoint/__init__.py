"""One OpenAI-compatible endpoint, asked with care."""
