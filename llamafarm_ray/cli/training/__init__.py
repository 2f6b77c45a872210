"""Verbs that train: ``train``, ``tune`` and ``estimate``."""
