"""The teacher: an LLM that judges (document, label) pairs, its prompts, read-outs and engines."""
