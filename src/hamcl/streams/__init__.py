"""Data sets as streams of tasks."""

from hamcl.streams.base import Samples, Stream, Task
from hamcl.streams.registry import SOURCES, load_source, load_stream
from hamcl.streams.source import Source
from hamcl.streams.split import split

__all__ = ["SOURCES", "Samples", "Source", "Stream", "Task", "load_source", "load_stream", "split"]
