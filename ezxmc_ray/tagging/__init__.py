"""Tagging with what a run produced: in Python, files, a bundle for services. No LLM, no Ray."""
