"""What one paper alone needs, and its experiments."""
