"""Verdicts: where they are kept, which pairs lack one, how raw scores become verdicts, and how they go in and out."""
