"""What replicas and sources say to each other."""
