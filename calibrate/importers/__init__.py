"""Profiles from the kernel tables of others."""
