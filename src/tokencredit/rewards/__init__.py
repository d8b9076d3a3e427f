"""What costs nothing: from evidence to one reward per token."""
