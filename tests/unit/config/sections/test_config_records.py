"""What is recorded of a configuration holds no secret, and is a configuration."""

import json

import pytest

from llamafarm_ray.config import parse_config, recorded, resolved

SECRETS = {
    "a webhook": {"monitoring": {"alerting": {"webhook": "https://hooks.example/services/SECRET"}}},
    "a database's password": {"dataset": {"source": {"path": "postgresql://me:SECRET@db/faq?query=SELECT 1"}}},
    "one of several sources": {"dataset": {"source": {"path": ["docs", "mysql://me:SECRET@db/faq?query=SELECT 1"]}}},
    "a tracking server's password": {"monitoring": {"mlflow_uri": "https://me:SECRET@tracking.example"}},
    "an endpoint's password": {
        "dataset": {"preprocessing": {"qa_generation": {"endpoint": {"base_url": "https://me:SECRET@llm.example/v1"}}}}
    },
    "a bucket's key": {"home": "s3://KEY:SECRET@bucket/home"},
    "a hub's token": {"deployment": {"engine_kwargs": {"hf_token": "SECRET", "max_num_seqs": 8}}},
}


@pytest.mark.parametrize("table", SECRETS.values(), ids=SECRETS)
def test_a_record_has_no_secret_and_reads_back(table):
    config = parse_config(table)
    assert "SECRET" in json.dumps(resolved(config)), "the work itself needs it"
    text = json.dumps(recorded(config))
    assert "SECRET" not in text
    parse_config(json.loads(text))


def test_a_record_without_secrets_is_the_resolved_configuration():
    config = parse_config(
        {
            "base_model": "meta-llama/Llama-3.1-8B-Instruct",
            "dataset": {"source": {"path": "s3://bucket/docs@v2"}},
            "deployment": {"engine_kwargs": {"max_num_batched_tokens": 2048}},
            "monitoring": {"alerting": {"webhook_env": "HOOK"}},
        }
    )
    assert recorded(config) == resolved(config)
