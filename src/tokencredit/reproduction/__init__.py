"""Recorded runs made again, and compared with their records."""
