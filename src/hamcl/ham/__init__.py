"""The method on plain tensors: adapters, their similarity, their groups and their merging."""

from hamcl.ham.adapter import Adapter, Factors, Group, Layers, check_finite, check_matching
from hamcl.ham.grouping import Assignment, Calibration, Groups
from hamcl.ham.merging import RULES, Merged, PruneOn, Rule, compress, concat, final, merge_layers, prune
from hamcl.ham.similarity import inner, norm, weight

__all__ = [
    "RULES",
    "Adapter",
    "Assignment",
    "Calibration",
    "Factors",
    "Group",
    "Groups",
    "Layers",
    "Merged",
    "PruneOn",
    "Rule",
    "check_finite",
    "check_matching",
    "compress",
    "concat",
    "final",
    "inner",
    "merge_layers",
    "norm",
    "prune",
    "weight",
]
