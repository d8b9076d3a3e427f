"""Many runs from one command: each cell, what is told of it, and the closing table."""
