"""Which nodes become one kernel: groups."""
