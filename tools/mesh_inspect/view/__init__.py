"""What a look at a mesh means: rows, groups, what can be served, what changed. Pure."""
