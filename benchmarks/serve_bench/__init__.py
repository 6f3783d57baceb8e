"""Helpers of serve.py: clients that ask over HTTP, and the plain server that `ezxmc serve` is compared with."""
