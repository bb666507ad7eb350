"""Where first contacts come from: seeds, DNS, the scheduler's environment, this host's directory.

Everything here may block (DNS, files, commands) and therefore runs off the gossip thread. A found
address is a hint: if it is wrong, a connection is refused, but no wrong member joins.
"""
