"""Who has these weights: what members publish, and whom to ask."""
