"""Fixtures of other folders that the fuzzer uses."""

from tests.verdicts.conftest import make_run  # noqa: F401
