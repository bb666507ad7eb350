"""Transfers of weights in virtual time: links, replicas, storage, and who asks whom for what.

    python -m netsim fanout --replicas 8 --rate 400mbit --bytes 100MB --policy swarm --json

The decisions are the product's own: `netloader.replica.schedule` picks chunks, `neighbours` picks
sources, `netloader.source.policy.choking` gives slots. Links and processes are simulated.
"""
