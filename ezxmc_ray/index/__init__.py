"""The sharded FAISS index over the labels: building, saving, loading and searching."""
