"""One file for each command that looks at a mesh: its options, what it prints, its exit status."""
