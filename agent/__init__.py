"""The node daemon of fernd: reports what its machine can do, takes tasks, runs them in containers."""

__version__ = "0.1.0"
