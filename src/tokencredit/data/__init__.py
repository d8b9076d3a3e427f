"""Reading, splitting, and ordering records."""
