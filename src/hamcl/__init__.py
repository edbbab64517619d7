"""hamcl: a pre-trained model that keeps learning new tasks with a fixed number of merged adapters."""

__version__ = "0.1.0"
