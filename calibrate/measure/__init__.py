"""Measuring a device: what to time, in which order, how, and keeping every sample."""
