"""What a built model holds besides its tensors, and which shard its modules hold."""
