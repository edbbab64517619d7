"""The story of one task, and what tells classes apart."""
