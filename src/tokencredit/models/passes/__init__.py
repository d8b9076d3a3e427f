"""Forward passes: batches without gaps, log-probabilities, products."""
