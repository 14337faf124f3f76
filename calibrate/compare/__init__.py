"""A simulated run beside a measured one: loaders, figures, errors, rankings."""
