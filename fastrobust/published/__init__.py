"""Published robustness numbers, compared with each other."""
