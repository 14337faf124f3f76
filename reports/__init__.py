"""Metrics, figures and the page. Reads run records only."""
