"""What is built from the files of a run: statistics, figures, sample tables, summaries."""
