"""The method on plain tensors: adapters, their similarity, their groups and their merging."""

from hamcl.ham.adapter import Adapter, Factors, Group, Layers, check_finite, check_matching
from hamcl.ham.grouping import Assignment, Calibration, Groups
from hamcl.ham.merging import RULES, Merged, PruneOn, Rule, compress, concat, final, merge_layers, prune
from hamcl.ham.similarity import cka, factor, inner, norm, weight

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
    "cka",
    "compress",
    "concat",
    "factor",
    "final",
    "inner",
    "merge_layers",
    "norm",
    "prune",
    "weight",
]
