"""The serving side, from a hello to chunks sent."""
