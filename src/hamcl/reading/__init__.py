"""A sample on its way into a network: transforms and batches."""
