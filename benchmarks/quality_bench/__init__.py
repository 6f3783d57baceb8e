"""What benchmarks/quality.py is made of: all methods on the same documents and labels."""
