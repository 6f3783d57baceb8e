"""What benchmarks/teacher.py is made of: the judge stage and other ways to ask the same model."""
