"""The errors hamcl raises on purpose. Each message is one sentence: what, where, and what to do."""


class HamError(Exception):
    """Base of all errors hamcl raises on purpose."""


class UsageError(HamError, ValueError):
    """An option, a specification or an argument is wrong (the command exits with 2)."""


class DataError(HamError, ValueError):
    """The data of a task or a file on disk cannot be used (the command exits with 1)."""


class TrainingError(HamError, RuntimeError):
    """Training could not go on; the learner is as it was before the task (the command exits with 1)."""
