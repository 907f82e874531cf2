"""The entry points: `polite-flamingo NAME`, each a module (`command.py`), on a laptop or under `ray job submit`."""

import sys

from ray_jobs import interruption

# The first import of a command, before all those that take time: argv[0] is "-m" while Python looks for the module.
if sys.argv[:1] == ["-m"] or sys.argv[0].endswith("/polite-flamingo"):
    interruption.listen(sys.orig_argv)
