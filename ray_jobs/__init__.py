"""The entry points: `python -m ray_jobs.NAME`, on a laptop or under `ray job submit`."""

import sys

from ray_jobs import interruption

if sys.argv[:1] == ["-m"]:  # Python imports this package to find the command in it: before all that takes time
    interruption.listen(sys.orig_argv)
