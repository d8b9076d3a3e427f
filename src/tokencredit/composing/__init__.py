"""From what is typed to a configuration, and what is said of mistakes in it."""
