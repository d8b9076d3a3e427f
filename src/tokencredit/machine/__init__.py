"""What a machine does to a program: faults, child processes, temporary files."""
