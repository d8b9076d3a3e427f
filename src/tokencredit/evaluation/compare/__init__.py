"""`judge compare`: models answer the same prompts, and an oracle scores them."""
