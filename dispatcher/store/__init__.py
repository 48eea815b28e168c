"""Where the dispatcher keeps what it promised: one Protocol (`base`), one module for each database."""
