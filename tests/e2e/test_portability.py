"""The adapter is nobody's prisoner: plain peft and a bare vLLM server give the same greedy text as our endpoint."""

import sys

import openai
import pytest
from e2e_tools import environment, running, wait_for

from llamafarm_ray.clusters.ports import free_port

pytestmark = pytest.mark.timeout(900)  # the first test to run waits for the whole demo


@pytest.fixture(scope="module")
def adapter(demo):
    return demo.folder / "trained_models" / "edition-1"


@pytest.fixture(scope="module")
def answers(demo):
    """What our endpoint answered in the demo."""
    return {answer["question"]: answer["adapter"] for answer in demo.found("answers")}


def test_plain_peft_gives_the_same_text(demo, adapter, answers):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.base)
    base = AutoModelForCausalLM.from_pretrained(demo.base, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    for question, answer in answers.items():
        chat = [{"role": "user", "content": question}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        text = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text.strip() == answer


@pytest.mark.long  # plain peft says the same in seconds
def test_a_bare_vllm_server_gives_the_same_text(demo, adapter, answers, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(demo.base)]
    command += ["--enable-lora", "--max-lora-rank", "32", "--lora-modules", f"guide={adapter}", "--enforce-eager"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "vllm.log"
    variables = environment(VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1")
    with running(command, log, env=variables, cwd=tmp_path) as process:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        for question, answer in answers.items():
            chat = [{"role": "user", "content": question}]
            completion = client.chat.completions.create(model="guide", messages=chat, max_tokens=40, temperature=0)
            assert completion.choices[0].message.content.strip() == answer
