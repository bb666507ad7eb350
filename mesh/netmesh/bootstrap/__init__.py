"""Where first contacts come from: seeds, DNS, the scheduler's environment, this host's directory.

Everything here may block (DNS, files, commands) and therefore runs off the gossip thread. What is
found is a hint: a wrong address costs a refused connection, never a wrong member.
"""
