"""Writer of snapshots, on a thread of its own, after every so many commits."""

from __future__ import annotations

import logging
import threading

from llamafarm_ray.errors import StorageError
from llamafarm_ray.registry.history.snapshots import Snapshot, Snapshots
from llamafarm_ray.registry.log import Head
from llamafarm_ray.registry.state import RegistryState

__all__ = ["SnapshotWriter"]

logger = logging.getLogger(__name__)


class SnapshotWriter:
    """Writes a snapshot when enough commits have passed since the last one.

    Args:
        commits_a_snapshot: commits between two snapshots.

    Attributes:
        store: likewise.
        last_sequence: the commit of the last snapshot, written or read.
    """

    def __init__(self, store: Snapshots, commits_a_snapshot: int) -> None:
        self.store = store
        self.last_sequence = 0
        self._commits_a_snapshot = commits_a_snapshot
        self._thread: threading.Thread | None = None

    def write_if_due(self, state: RegistryState, head: Head) -> None:
        """Begin to write a snapshot if one is due, once the one before it is written."""
        if head.sequence - self.last_sequence < self._commits_a_snapshot:
            return
        self.last_sequence = head.sequence
        self.join()
        thread = threading.Thread(target=self._write, args=(Snapshot(state, head),), name="registry-snapshot")
        try:
            thread.start()
        except RuntimeError as error:  # no more threads: the next one may succeed
            logger.warning("The snapshot of commit %d could not be started: %s", head.sequence, error)
            return
        self._thread = thread

    def join(self) -> None:
        """Wait for a snapshot that is being written."""
        if self._thread is not None:
            self._thread.join()

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self.store.write(snapshot)
        except StorageError as error:  # the log is enough; the next one may succeed
            logger.warning("The snapshot of commit %d could not be written: %s", snapshot.head.sequence, error)
