"""What a checkpoint holds, as its files and the reads of this process tell."""
