"""Netbench: what a transfer of weights costs, beside what the machine can do at all.

Every figure stands beside its raw limit, plain Gloo, and beside upstream's algorithm on the same
transport, all measured in one run and in turns: raw, ours, upstream, raw, ours, upstream. Medians,
with every single repetition in the JSON. GB is 1e9 bytes, MiB is 2**20.
"""
