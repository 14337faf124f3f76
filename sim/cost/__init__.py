"""Step plans to seconds."""
