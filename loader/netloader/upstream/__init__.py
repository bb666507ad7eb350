"""Transfers with vLLM Ascend's own Netloader, called upstream: its messages, rules and order.

Neither end of an upstream transfer proves anything: no key, no digest, no manifest. So this room is
used only where an operator set `UPSTREAM`. `source/upstream.py` serves upstream's replicas, and
`replica/upstream.py` pulls from upstream's servers.
"""
