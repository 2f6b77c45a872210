"""Read, filter, compare with all others, and write: the work of a build, done by datatrove in two processes.

Run ``python datatrove_pipeline.py DOCUMENTS OUTPUT`` with an interpreter that has ``datatrove[io,processing]``,
``spacy`` (its tokenizer of English) and ``xxhash`` below 4. DOCUMENTS is a folder of JSONL files whose rows have
``text`` and ``id``.
"""

import sys
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

WORKERS = 2
LEAST_CHARS = 50
CONFIG = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)


def is_long(document: Any) -> bool:
    """Return True for a text that is not too short."""
    return len(document.text) >= LEAST_CHARS


def main() -> None:
    """Run the four stages, one after the other."""
    documents, output = sys.argv[1], Path(sys.argv[2])
    signatures, buckets, removed = (str(output / name) for name in ("signatures", "buckets", "removed"))
    read = [JsonlReader(documents), LambdaFilter(is_long)]
    stages = {
        "sign": ([*read, MinhashDedupSignature(signatures, config=CONFIG)], WORKERS),
        "match": ([MinhashDedupBuckets(signatures, buckets, config=CONFIG)], CONFIG.num_buckets),
        "cluster": ([MinhashDedupCluster(buckets, removed, config=CONFIG)], 1),
        "write": ([*read, MinhashDedupFilter(removed), JsonlWriter(str(output / "kept"), compression=None)], WORKERS),
    }
    for name, (pipeline, tasks) in stages.items():
        logs = str(output / "logs" / name)
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=WORKERS, logging_dir=logs).run()


if __name__ == "__main__":
    main()
