"""ezxmc-ray: extreme zero-shot multi-label classification on Ray (LMTX, arXiv 2406.09288, and beyond)."""

__version__ = "0.1.0"
