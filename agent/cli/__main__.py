"""``python -m agent.cli`` is ``fernd``, for the interpreter that runs it."""

from agent.cli.main import fernd

fernd(prog_name="fernd")
