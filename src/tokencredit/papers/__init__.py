"""What papers show, from runs: tables, figures, claims, and pages."""
