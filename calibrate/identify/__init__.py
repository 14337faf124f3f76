"""What a run of an engine tells of step times: scales of op families, host terms, KV capacity."""
