"""SimPy processes: arrivals, sessions, replicas, transfers."""
