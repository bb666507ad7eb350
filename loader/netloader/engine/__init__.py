"""The rooms that know vLLM: no other part imports vLLM."""
