"""Which chunk to ask which source for: rarest first over what each source has. Pure."""
