"""LoRA adapters of random weights, and what plain peft answers with them."""

import itertools


def make_adapter(base, folder, seed, *, rank=8):
    """A LoRA adapter with random weights, large enough to change every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        config = LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=["q_proj", "v_proj", "down_proj"])
        adapted = get_peft_model(model, config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(folder)
    return folder


def greedy(base, adapter, prompt, num_tokens):
    """What plain transformers and peft answer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=num_tokens, do_sample=False, min_new_tokens=1)
    return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def prompt_logprobs(base, adapter, prompt):
    """A prompt's token ids, and of each but the first how probable it is after those before it, by plain peft."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    ids = AutoTokenizer.from_pretrained(base)(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return ids[0].tolist(), logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()


def make_adapters(base, folder, num_adapters):
    """Many adapters as by `make_adapter`, each with weights of its own: only the files are written anew."""
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    first = make_adapter(base, folder / "0", seed=1)
    shapes = {name: weight.shape for name, weight in load_file(first / "adapter_model.safetensors").items()}
    for number in range(1, num_adapters):
        made = shutil.copytree(first, folder / str(number))
        draw = torch.Generator().manual_seed(number)
        weights = {
            name: torch.randn(shape, generator=draw) * (0.5 if "lora_B" in name else 0.1)
            for name, shape in shapes.items()
        }
        save_file(weights, made / "adapter_model.safetensors", metadata={"format": "pt"})
    return [folder / str(number) for number in range(num_adapters)]


def greedy_ids(base, adapters, prompts, num_tokens, *, clear=1e-4):
    """The most probable tokens after each prompt, by plain peft; no token ends an answer.

    Args:
        base: the base model's folder.
        adapters: folders, each of the same shapes.
        prompts: token ids, all of the same number.
        num_tokens: of an answer.
        clear: an answer ends before two tokens whose logits differ by less: which comes is a matter of rounding.

    Returns:
        for each adapter, for each prompt the ids.
    """
    import torch
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapters[0]).eval()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many tiny steps
    try:
        answers = []
        for adapter in adapters:
            set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
            answers.append(_clear_ids(model, prompts, num_tokens, clear))
        return answers
    finally:
        torch.set_num_threads(num_threads)


def _clear_ids(model, prompts, num_tokens, clear):
    import torch

    given, cache, steps = torch.tensor(prompts), None, []
    with torch.inference_mode():
        for _ in range(num_tokens):
            out = model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, best = out.past_key_values, out.logits[:, -1].topk(2)
            given = best.indices[:, :1]
            steps.append((given[:, 0].tolist(), (best.values[:, 0] - best.values[:, 1] >= clear).tolist()))
    answers = []
    for row in range(len(prompts)):
        clear_steps = itertools.takewhile(lambda step: step[1][row], steps)  # noqa: B023 - used up right here
        answers.append([ids[row] for ids, _ in clear_steps])
    return answers
