"""Adapters of one engine: files, loading and unloading, and the slots that requests share.

``protocols`` describes an engine that adapters are loaded into, ``files`` pulls and verifies them, ``pool`` loads and
unloads, ``capacity`` and ``slots`` limit how many are loaded and in use, ``desired_state`` reads the registry's state.
"""
