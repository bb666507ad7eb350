"""Who has these weights: what is published, and whom to ask."""
