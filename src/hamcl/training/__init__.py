"""Training on one task: the loop, its exact resume, and features."""
