"""Code that users bring along: found, imported, called with care, kept, and trusted."""
