"""What a person runs: train, evaluate, benchmark, report."""
