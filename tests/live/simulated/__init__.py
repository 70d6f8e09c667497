"""A seeded world in one process: a chain, a node that answers for it, a clock that jumps to the next event, and faults."""
