"""What embedding in bulk costs, beside what one would write by hand. One command: `python -m benchmarks.embedding`."""
