"""Excludes all objects loaded so far from garbage collection, here and in forked processes.

The forkserver of executors.py imports this module last. Without it each step's collector scans some
200,000 objects of imported modules again and again: a tenth of the CPU of a chunk.
"""

import gc

gc.freeze()
