"""What `import tokencredit` offers: functions for programs and notebooks."""
