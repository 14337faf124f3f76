"""The agent workload: its scenario model, its prompts, its tools, its loop."""
