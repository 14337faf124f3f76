"""What clients do: generated open and closed loops, agents, and recorded traces.

`spec.WorkloadSpec` is the scenario's model of it; its ``build`` gives a `built.BuiltWorkload`.
"""
