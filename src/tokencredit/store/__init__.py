"""What is kept on disk: artifacts by key, run folders, and files that are complete."""
