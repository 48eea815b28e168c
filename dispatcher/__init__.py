"""The dispatcher of fernd: the task API, the queue, and the matching of tasks to nodes."""

__version__ = "0.1.0"
