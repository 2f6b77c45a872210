"""Records of example files: every file type and layout of datasets as a stream, with places for messages."""

from llamafarm_ray.data.records.base import BadRecord, Record, Records, RecordsFile, UnreadableFileError
from llamafarm_ray.data.records.compression import file_type, stem_of
from llamafarm_ray.data.records.locating import (
    RECORD_SUFFIXES,
    SUPPORTED_FILES,
    chosen_splits,
    find_records,
    is_described_file,
    is_record_file,
    named_beside,
    saved_by_datasets,
    split_of_path,
    validation_path,
)
from llamafarm_ray.data.records.reading import read_file, read_records
from llamafarm_ray.data.records.writing import WRITABLE, RecordWriter, open_writer

__all__ = [
    "RECORD_SUFFIXES",
    "SUPPORTED_FILES",
    "WRITABLE",
    "BadRecord",
    "Record",
    "RecordWriter",
    "Records",
    "RecordsFile",
    "UnreadableFileError",
    "chosen_splits",
    "file_type",
    "find_records",
    "is_described_file",
    "is_record_file",
    "named_beside",
    "open_writer",
    "read_file",
    "read_records",
    "saved_by_datasets",
    "split_of_path",
    "stem_of",
    "validation_path",
]
