"""What a worker process has once, and the steps of loading a model."""
