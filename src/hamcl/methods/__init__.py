"""The methods of continual learning: HAM and its rivals."""
