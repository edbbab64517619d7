"""Data sets as streams of tasks."""

from hamcl.streams.base import Samples, Stream, Task
from hamcl.streams.check import check
from hamcl.streams.pixels import read_image
from hamcl.streams.registry import SOURCES, load_source, load_stream
from hamcl.streams.source import Source
from hamcl.streams.split import split
from hamcl.streams.task import load_task

__all__ = [
    "SOURCES",
    "Samples",
    "Source",
    "Stream",
    "Task",
    "check",
    "load_source",
    "load_stream",
    "load_task",
    "read_image",
    "split",
]
