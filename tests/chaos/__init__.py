"""Faults on real processes, and an oracle that knows nothing of the engine: ``make chaos``, ``python -m tests.chaos``.

A round starts a server, a Lambda runtime with the function, and an engine, on a DynamoDB that all rounds share. A
writer changes keys at a steady pace, and notes what it sends and what Redis acknowledges (`ledger`, `writer`). A fault
(`registry`, ``faults_*``) strikes while it writes, heals, and must show evidence that it struck. When the writer has
stopped, the destination is compared with Redis, key by key, until it is right and stays so, or a bounded wait is over
(`oracle`, `play`); then the engine is drained, and all is compared once more.

What chance there is comes from one seed: a fault's depends on the suite's, its name and the round, so that
``SEED=7 python -m tests.chaos --only NAME`` repeats it, as far as time allows.
"""
