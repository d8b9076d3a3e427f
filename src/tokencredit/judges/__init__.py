"""What costs a forward pass: scores of responses, and evidence about their tokens."""
