"""Coverage-guided fuzzing of everything that reads bytes of others.

docs/evidence/fuzzing.md has figures.
"""
