"""Decides which weights these are, and whether two workers may share them."""
