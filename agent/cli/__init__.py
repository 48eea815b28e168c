"""The command line: `fernd` and its commands, each of which is imported only when it runs."""
