"""What `tokencredit COMMAND` does, a file a command; each is imported when it is asked for."""
