"""What a run leaves behind: JSONL files, a mirror at W&B, and a progress display."""
