"""What benchmarks/gpu.py is made of: its parts, each run in a process of its own, and what they measure with."""
