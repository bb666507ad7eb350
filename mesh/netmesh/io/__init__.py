"""The ZeroMQ shell around the sans-IO core: one thread owns every socket and decides nothing."""
