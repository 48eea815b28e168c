"""The dashboard: files that a browser is given as they are. `dispatcher.routes.pages` serves them."""
