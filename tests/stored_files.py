"""What lies in folders and in a cache, for tests to compare."""


def files(folder):
    """The bytes of every file below a folder, by relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def cached_blob(store, manifest, number=0):
    """The place of a file of a version in the cache."""
    return store.cache / "blobs" / manifest.files[number].digest.hex
