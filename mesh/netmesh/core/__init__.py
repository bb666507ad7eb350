"""The gossip protocol without any I/O: events and the time go in, effects come out.

Nothing in this package opens a socket, reads a clock or draws its own random numbers; the shell
(`netmesh.io`) and the simulator (`netsim`) drive the same `Engine`.
"""
