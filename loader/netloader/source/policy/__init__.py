"""Who is served: admission, places and eviction. Pure."""
