"""Which weights are these, and may two workers share them?"""
