"""What a checkpoint holds, judged by its files and by what this process reads."""
