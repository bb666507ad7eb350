"""What is wrong, judged from facts: one file for each kind of fault. Pure.

`mesh_inspect.collect` gathers the facts, `commands/doctor.py` asks in order and prints.
"""
