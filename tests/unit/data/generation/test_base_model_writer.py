"""The base model learns from lessons, samples lines, and asks about each text."""

import pytest

from llamafarm_ray.data.augmentation.lessons import load_lessons
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.parsed import Passage
from llamafarm_ray.data.rows import Provenance
from llamafarm_ray.types import Digest

PROVENANCE = Provenance("base_model", "tiny", "lessons-1", "abc")


def test_lessons_ask_questions_and_some_texts_are_not_worth_one():
    lessons = load_lessons()
    assert len(lessons) >= 150
    assert [each for lesson in lessons for each in lesson.questions if not each.endswith("?")] == []
    assert any(not lesson.questions for lesson in lessons)


class Script:
    """A sampler that gives fixed lines for the ends of prompts."""

    def __init__(self, lines):
        self.lines = lines

    def sample(self, prompts, **_):
        from llamafarm_ray.data.generation.base_model.sampling import Line

        return [
            [Line(*line) for end, lines in self.lines.items() if prompt.endswith(f"{end}\nQuestion:") for line in lines]
            for prompt in prompts
        ]


def write(lines, text="A tour of the mill costs 4.50 euros.", language="en", **sampling):
    from llamafarm_ray.data.generation.base_model.writer import BaseModelWriter

    passage = Passage("mill.md", Digest.of(b""), "The Mill", ("The Mill",), text, 0, 1, language=language)
    writer = BaseModelWriter(Script(lines), Sampling(**sampling), PROVENANCE)
    (written,) = writer.write([passage])
    return written


GOOD = "How much does a tour of the mill cost?"
TEXT = "A tour of the mill costs 4.50 euros."


def test_the_text_answers_the_questions_about_it():
    written = write({TEXT: [(GOOD, -0.2), ("What is it?", -0.1), ("How old is Anna?", -0.1)]})
    assert [(each.question, each.answer) for each in written.examples] == [(GOOD, TEXT)]
    assert written.examples[0].provenance == PROVENANCE
    assert dict(written.dropped) == {
        "question is about something else": 1,
        "question has a name or number that the text lacks": 1,
    }


def test_the_likeliest_wordings_are_kept_and_share_their_fact():
    other = "What does a tour of the mill cost?"
    lines = [(other, -0.3), (GOOD, -0.2), ("What would the tour of the mill cost?", -0.4), (other, -0.25)]
    examples = write({TEXT: lines}, phrasings=2).examples
    assert [each.question for each in examples] == [GOOD, other]
    assert len({each.fact for each in examples}) == 1


def test_every_second_wording_leaves_out_the_document_where_no_other_text_fits_better():
    named, other = "How much does the tour cost at the Mill?", "What does a tour cost at the Mill?"
    lines = [(named, -0.2), (other, -0.3)]
    assert [each.question for each in write({TEXT: lines}).examples] == [named, "What does a tour cost?"]
    examples = write({TEXT: lines}, text=f"{TEXT} Meals cost ten euros.").examples
    assert [each.question for each in examples] == [named, other]


def test_wordings_that_differ_in_small_words_count_once():
    examples = write({TEXT: [(GOOD, -0.2), ("How much does the tour of a mill cost?", -0.3)]}).examples
    assert [each.question for each in examples] == [GOOD]


def test_a_question_that_another_text_answers_better_is_left_out():
    question, other = "How many euros does a tour of the mill cost?", "A tour of the mill begins at ten."
    written = write({TEXT: [(question, -0.2)], other: [(question, -0.1)]}, text=f"{TEXT} {other}")
    assert [(each.question, each.answer) for each in written.examples] == [(question, TEXT)]
    assert dict(written.dropped) == {"question fits another text better": 1}


def test_unlikely_questions_are_left_out():
    written = write({TEXT: [(GOOD, -0.4)]}, min_score=-0.3)
    assert written.examples == ()
    assert dict(written.dropped) == {"question is unlikely": 1}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of two layers that reads characters."""
    import tokenizers
    import torch
    import transformers
    from method_models import make_model

    letters = ["<pad>", "<s>", "</s>", "\n", *" abcdefghijklmnopqrstuvwxyz:?.,0123456789ABCDEFGHIJ"]
    special = dict(zip(("pad_token", "bos_token", "eos_token"), letters[:3], strict=True))
    model = tokenizers.models.WordLevel({letter: at for at, letter in enumerate(letters)}, letters[0])
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    folder = make_model(tmp_path_factory.mktemp("tiny"))
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), tokenizer


def test_greedy_lines_in_a_padded_batch_are_those_of_each_prompt_alone(tiny):
    import torch

    from llamafarm_ray.data.generation.base_model.sampling import LineSampler

    model, tokenizer = tiny
    prompts = ["Fact:", "a much longer prompt. Fact:", "b"]
    lines = LineSampler(model, tokenizer).sample(prompts, num_samples=1, max_tokens=6, temperature=0.0, seed=0)
    for prompt, (line,) in zip(prompts, lines, strict=True):
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False)])
        with torch.inference_mode():
            for _ in range(6):
                ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        alone = tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
        assert line.text == alone.split("\n", 1)[0].strip()


def test_samples_depend_on_the_seed_alone(tiny):
    from llamafarm_ray.data.generation.base_model.sampling import LineSampler

    sampler = LineSampler(*tiny)
    settings = {"num_samples": 3, "max_tokens": 5, "temperature": 1.0}
    first = sampler.sample(["Fact:", "Question:"], seed=1, **settings)
    assert [len(lines) for lines in first] == [3, 3]
    assert sampler.sample(["Fact:", "Question:"], seed=1, **settings) == first
    assert sampler.sample(["Fact:", "Question:"], seed=2, **settings) != first


def test_learning_makes_the_lessons_likelier_and_changes_nothing_else_about_the_model(tiny):
    import copy

    from llamafarm_ray.data.augmentation.lessons import heading_lines
    from llamafarm_ray.data.generation.base_model.sampling import LineSampler
    from llamafarm_ray.data.generation.base_model.settings import Study
    from llamafarm_ray.data.generation.base_model.study import learn

    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    lessons = load_lessons()[:4]
    study = Study(epochs=12, learning_rate=3e-2, rank=8, tokens_per_step=600)
    learned = learn(model, tokenizer, lessons, study, seed=0)
    prompt = heading_lines(lessons[0].topic, lessons[0].before, lessons[0].text) + "Question:"
    greedy = {"num_samples": 1, "max_tokens": 8, "temperature": 0.0, "seed": 0}
    ((before,),) = LineSampler(*tiny).sample([prompt], **greedy)
    ((after,),) = LineSampler(learned, tokenizer).sample([prompt], **greedy)
    assert after.log_prob > before.log_prob
    assert after.text != before.text
    assert [name for name, _ in learned.named_parameters()] == [name for name, _ in tiny[0].named_parameters()]


def test_learning_computes_each_update_in_fused_layers(tiny, monkeypatch):
    import copy

    from peft.tuners.lora.layer import Linear

    from llamafarm_ray.data.generation.base_model import study as study_module
    from llamafarm_ray.data.generation.base_model.settings import Study

    seen = []

    def look(student, *_):
        seen.extend("forward" in vars(module) for module in student.modules() if type(module) is Linear)

    monkeypatch.setattr(study_module, "_train", look)
    study_module.learn(copy.deepcopy(tiny[0]), tiny[1], load_lessons()[:1], Study(epochs=1, rank=4), seed=0)
    assert seen
    assert all(seen)


def test_an_update_is_learned_once_and_then_restored_to_the_bit(tiny, tmp_path, monkeypatch):
    import copy

    import torch

    from llamafarm_ray.data.generation.base_model import study as study_module
    from llamafarm_ray.data.generation.base_model.learned import LearnedUpdate
    from llamafarm_ray.data.generation.base_model.settings import Study

    study, lessons = Study(epochs=1, rank=4, tokens_per_step=600), load_lessons()[:4]
    kept = LearnedUpdate(str(tmp_path), "a")

    def learned(kept):
        model = study_module.learn(copy.deepcopy(tiny[0]), tiny[1], lessons, study, seed=0, kept=kept)
        return torch.cat([weight.flatten().float() for weight in model.parameters()])

    first = learned(kept)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    monkeypatch.setattr(study_module, "_train", lambda *_: pytest.fail("it was learned before"))
    assert torch.equal(learned(kept), first)
    monkeypatch.undo()
    (tmp_path / "a.safetensors").write_bytes(b"damaged")
    assert torch.equal(learned(kept), first)
    assert torch.equal(learned(LearnedUpdate(str(tmp_path), "b")), first)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_the_model_computes_on_the_machines_cores_in_a_format_that_they_multiply_in(
    tmp_path, monkeypatch, has_bf16, dtype
):
    import torch
    from tiny_model import make_tiny_model

    from llamafarm_ray.data.generation.base_model.plan import BaseModelPlan

    threads, models = [], []
    study = "llamafarm_ray.data.generation.base_model.student.learn"
    monkeypatch.setattr(study, lambda model, *_, **__: models.append(model) or model)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    BaseModelPlan(make_tiny_model(tmp_path / "base"), 4.0, 0.0).open()
    assert (threads, str(models[0].dtype)) == ([2], f"torch.{dtype}")
