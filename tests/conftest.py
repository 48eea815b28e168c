"""What all tests need of the process that runs them."""

from __future__ import annotations

import signal

# A shell without job control starts what it puts into the background with SIGINT ignored, and every program
# that is started from there inherits that. The tests send it as a terminal's Ctrl-C would.
signal.signal(signal.SIGINT, signal.default_int_handler)
