"""ezxmc-ray: extreme zero-shot multi-label classification on Ray (LMTX, arXiv 2406.09288, and beyond)."""

import logging

__version__ = "0.1.0"

# What is said stands on the terminal already: the package's logger is silent until EZXMC_LOG names a file (cli.py).
logging.getLogger(__name__).addHandler(logging.NullHandler())
logging.getLogger(__name__).propagate = False
