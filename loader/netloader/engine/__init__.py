"""What knows vLLM: nothing else imports it."""
