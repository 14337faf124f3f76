"""GPUs, models and links, with sources."""
