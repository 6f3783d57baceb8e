"""The report of a run: ``report.json`` for machines and a self-contained ``report.html`` for people."""

from __future__ import annotations

from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.page import write_report

__all__ = ["build_report", "write_report"]
