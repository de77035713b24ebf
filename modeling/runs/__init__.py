"""A run on disk: its folder, its checkpoints, the evidence of how it went, and the trained network
that it holds.
"""

from __future__ import annotations

from modeling.runs.folder import BEST, CONFIG, EVIDENCE, LAST, LOG, Log, begin, in_run

__all__ = ["BEST", "CONFIG", "EVIDENCE", "LAST", "LOG", "Log", "begin", "in_run"]
