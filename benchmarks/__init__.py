"""What llmwire costs, beside its peers. One command: `python -m benchmarks`. Ratios are of one run on one machine."""
