"""Graph -> Graph, or Graph -> plan; one entry function each."""
