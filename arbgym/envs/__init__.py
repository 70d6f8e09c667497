"""Environments, one file each; see ``arbgym.ENVIRONMENTS``."""
