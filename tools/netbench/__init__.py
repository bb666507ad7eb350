"""Netbench: what a transfer of weights costs, beside the most that the machine can do.

Every figure stands beside its raw limit, plain Gloo, and beside upstream's algorithm on the same
transport. One run measures all of them in turns: raw, ours, upstream, raw, ours, upstream. Figures
are medians, and the JSON has every repetition. GB is 1e9 bytes, MiB is 2**20.
"""
