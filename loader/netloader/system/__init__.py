"""Threads, cores and memory of the host."""
