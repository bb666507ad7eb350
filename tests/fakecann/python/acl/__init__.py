"""pyACL, as far as vllm-ascend imports it: `acl.rt.memcpy`."""
