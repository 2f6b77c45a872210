"""Use of devices, tokens and storage: the ledger that all work writes to, and the quotas of namespaces.

``ledger`` reads and writes the files of the ledger, ``meter`` counts one piece of work, and ``quotas`` checks the
limits of a namespace.
"""

from llamafarm_ray.registry.governance.quota import Quota
from llamafarm_ray.registry.usage.ledger import (
    CPU,
    GPU,
    LEDGER_FOLDER,
    Amounts,
    LedgerRow,
    Work,
    WorkKey,
    gpu_name,
    read_ledger,
    write_page,
)
from llamafarm_ray.registry.usage.meter import Meter
from llamafarm_ray.registry.usage.quotas import check_storage, stored_bytes

__all__ = [
    "CPU",
    "GPU",
    "LEDGER_FOLDER",
    "Amounts",
    "LedgerRow",
    "Meter",
    "Quota",
    "Work",
    "WorkKey",
    "check_storage",
    "gpu_name",
    "read_ledger",
    "stored_bytes",
    "write_page",
]
