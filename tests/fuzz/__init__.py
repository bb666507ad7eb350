"""Coverage-guided fuzzing of everything that reads bytes of others. docs/fuzzing.md has figures."""
