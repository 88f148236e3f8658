"""Keeps what is loaded so far out of garbage collections, in this process and those it forks.

Imported last of all by the server that forks a run's steps. Each step would look through some
200,000 objects of imported modules time and again: a tenth of the CPU of a chunk.
"""

import gc

gc.freeze()
