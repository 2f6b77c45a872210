"""Builds of datasets for tests, and what they made."""

from llamafarm_ray.config import DatasetConfig
from llamafarm_ray.data import BuildOptions, build_dataset

EVERY_QUESTION = {"questions_per_doc": None, "phrasings": 4}

CONFIG = DatasetConfig.model_validate(
    {"preprocessing": {"qa_generation": EVERY_QUESTION}, "validation": {"split_ratio": 0.2}}
)


def build(source, output, config=CONFIG, **options):
    return build_dataset(source, output, config, name="houses", seed=7, options=BuildOptions(**options))


def rows_of(splits):
    return [row for split in (splits.train, splits.validation) if split is not None for row in split.take_all()]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_files(one, other):
    """Assert that all files but report.json, which has times, are equal."""
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        if path.name != "report.json":
            assert (one / path).read_bytes() == (other / path).read_bytes()


def by_model(url, *, with_passages=False, **endpoint):
    generation = {"model": "gpt", "questions_per_doc": None, "endpoint": {"base_url": url, **endpoint}}
    return DatasetConfig.model_validate(
        {
            "preprocessing": {"qa_generation": generation, "with_passages": with_passages},
            "validation": {"split_ratio": 0.2},
        }
    )
