"""The tensors of a model as bytes: laid out, cut, digested, kept."""
