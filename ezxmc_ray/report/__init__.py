"""The report of a run: ``report.json`` for machines and a self-contained ``report.html`` for people."""

from __future__ import annotations
