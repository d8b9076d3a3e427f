"""Language models: where they come from, how they are wrapped, how they speak."""
