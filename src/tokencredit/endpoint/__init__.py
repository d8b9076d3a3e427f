"""A client of OpenAI-compatible endpoints: one message in, one reply out, the key kept secret."""
