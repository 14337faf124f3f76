"""Where step times come from: measured here, imported, fitted, and compared with real runs."""
