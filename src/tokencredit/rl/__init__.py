"""The RL loop: its parts, and what it loads and leaves behind."""
