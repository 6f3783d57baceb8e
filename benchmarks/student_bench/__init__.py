"""What benchmarks/student.py is made of: the train stage, the encoder and SentenceTransformers."""
