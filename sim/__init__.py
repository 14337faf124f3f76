"""The simulator: state that both hosts keep, SimPy processes, step costs, links."""
