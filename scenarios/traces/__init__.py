"""Loaders of public trace formats."""
