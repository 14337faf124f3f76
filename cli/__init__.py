"""The front door: verbs and what they print. No logic of its own."""
