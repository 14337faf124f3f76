"""Scenario files, their schema, and how a scenario becomes a cluster and a workload."""
