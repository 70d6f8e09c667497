"""The thin live adapter: an exported policy on a real chain, dry-run by default. ``python -m arbgym.live --help``.

A block's way through it, one module each: ``feed`` (blocks of a chain or of a recording, in exact integer pools), ``observer``
(the environment's own kernels on them), ``decision`` (policy, and an exact plan), ``risk`` (limits and the kill switch),
``journal`` and ``sender`` (each intent written before it is sent, and settled exactly once). ``runner`` joins them; ``terms`` has
the values that pass between them and the protocols that each is held to.
"""
