"""Engines run shard jobs. An engine has one function, `run(work, jobs, workers=...)`.

It yields (job, result) in any order, and raises the first error of a job.
"""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # hears of bytes done and bytes in all
