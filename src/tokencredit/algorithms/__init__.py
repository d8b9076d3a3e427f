"""Pure: from rewards to targets, from targets to a loss. No device, no optimizer, no logging."""
