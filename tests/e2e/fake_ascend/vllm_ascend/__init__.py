"""A stand-in for vLLM Ascend, which needs an NPU: only what registers its loader."""
