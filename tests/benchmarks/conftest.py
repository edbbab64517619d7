"""Updates to compare, and what to compare them with."""

from support.updates import dense, make, pairs

__all__ = ["dense", "make", "pairs"]
