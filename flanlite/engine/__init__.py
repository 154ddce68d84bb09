"""Where torch lives: loading, training, checkpoints, generation, and the arithmetic of merging."""

import os

# torch's threads wait for each other by spinning. On a machine that does anything else besides, that is three times
# slower than sleeping (two threads on two busy cores, 3 million parameters). It is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
