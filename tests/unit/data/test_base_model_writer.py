"""The base model learns from lessons, samples lines, and keeps the pairs that it finds again itself."""

import pytest

from llamafarm_ray.data.generation.base_model.lessons import load_lessons
from llamafarm_ray.data.generation.base_model.settings import Sampling
from llamafarm_ray.data.rows import Passage, Provenance
from llamafarm_ray.types import Digest

PROVENANCE = Provenance("base_model", "tiny", "lessons-1", "abc")


def test_lessons_hold_their_facts_word_for_word():
    lessons = load_lessons()
    assert len(lessons) >= 150
    pairs = [(lesson, pair) for lesson in lessons for pair in lesson.pairs]
    assert [pair.fact for lesson, pair in pairs if pair.fact not in lesson.text] == []
    assert [pair.question for _, pair in pairs if not pair.question.endswith("?") or not pair.answer] == []
    assert any(not lesson.pairs for lesson in lessons)


class Script:
    """A sampler that gives fixed lines for the ends of prompts."""

    def __init__(self, lines):
        self.lines = lines

    def sample(self, prompts, **_):
        return [self._of(prompt) for prompt in prompts]

    def greedy(self, prompts, **_):
        return [self._of(prompt)[0] for prompt in prompts]

    def _of(self, prompt):
        from llamafarm_ray.data.generation.base_model.sampling import Line

        found = [texts for end, texts in self.lines.items() if prompt.endswith(end)]
        return [Line(text, -0.2) for text in (found[0] if found else ["none"])]


def write(lines, text="A tour of the mill costs 4.50 euros.", language="en", **sampling):
    from llamafarm_ray.data.generation.base_model.writer import BaseModelWriter

    passage = Passage("mill.md", Digest.of(b""), "The Mill", ("The Mill",), text, 0, 1, language=language)
    writer = BaseModelWriter(Script(lines), Sampling(**sampling), PROVENANCE)
    (written,) = writer.write([passage])
    return written


GOOD = "How much does a tour of the mill cost?"


def test_a_question_is_kept_if_the_fact_is_found_with_it_again():
    written = write(
        {
            "euros.\nFact:": ["4.50 euros"],
            "Fact: 4.50 euros\nQuestion:": [GOOD, "What is a tour of the mill?"],
            f"Question: {GOOD}\nFact:": ["4.50 euros"],
            "Question: What is a tour of the mill?\nFact:": ["a tour"],
            f"{GOOD}\nAnswer:": ["A tour of the mill costs 4.50 euros."],
        }
    )
    assert [(each.question, each.answer) for each in written.examples] == [
        (GOOD, "A tour of the mill costs 4.50 euros.")
    ]
    assert written.examples[0].provenance == PROVENANCE
    assert dict(written.dropped) == {"another answer was found for the question": 1}


def test_an_answer_that_says_more_gives_way_to_the_text_itself():
    written = write(
        {
            "euros.\nFact:": ["4.50 euros"],
            "\nQuestion:": [GOOD],
            f"{GOOD}\nFact:": ["4.50 euros"],
            "\nAnswer:": ["Children pay 4.50 euros at the castle."],
        }
    )
    assert [each.answer for each in written.examples] == ["A tour of the mill costs 4.50 euros."]


def test_wordings_of_a_fact_share_it_and_are_limited():
    questions = [GOOD, "What does a tour of the mill cost?", "What is the price of a tour of the mill?"]
    lines = {
        "euros.\nFact:": ["4.50 euros"],
        "\nQuestion:": questions,
        "?\nFact:": ["4.50 euros"],
        "\nAnswer:": ["A tour of the mill costs 4.50 euros."],
    }
    examples = write(lines, phrasings=2).examples
    assert len(examples) == 2
    assert len({each.fact for each in examples}) == 1


def test_a_question_with_two_answers_is_left_out():
    lines = {
        "\nFact:": ["4.50 euros", "forty minutes"],
        "Fact: 4.50 euros\nQuestion:": ["What is the tour of the mill?", GOOD],
        "Fact: forty minutes\nQuestion:": ["What is a mill tour?"],
        "?\nFact:": ["4.50 euros"],
    }
    found = {
        "Question: What is a mill tour?\nFact:": ["forty minutes"],
        "\nAnswer:": ["A tour of the mill costs 4.50 euros."],
    }
    written = write({**found, **lines}, text="A tour of the mill costs 4.50 euros and takes forty minutes.")
    assert [each.question for each in written.examples] == [GOOD]


def test_other_languages_than_those_of_the_lessons_are_left_alone():
    written = write({"\nFact:": ["4,50 Euro"]}, text="Eine Führung kostet 4,50 Euro.", language="de")
    assert (written.examples, dict(written.dropped)) == ((), {"no lessons for German": 1})


def test_unlikely_questions_are_left_out():
    lines = {"euros.\nFact:": ["4.50 euros"], "\nQuestion:": [GOOD], "?\nFact:": ["4.50 euros"], "\nAnswer:": ["-"]}
    written = write(lines, min_score=-0.3)
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
    lines = LineSampler(model, tokenizer).greedy(prompts, max_tokens=6)
    for prompt, line in zip(prompts, lines, strict=True):
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

    from llamafarm_ray.data.generation.base_model.lessons import heading_lines
    from llamafarm_ray.data.generation.base_model.sampling import LineSampler
    from llamafarm_ray.data.generation.base_model.settings import Study
    from llamafarm_ray.data.generation.base_model.study import learn

    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    lessons = load_lessons()[:4]
    study = Study(epochs=12, learning_rate=3e-2, rank=8, tokens_per_step=600)
    learned = learn(model, tokenizer, lessons, study, seed=0)
    prompt = heading_lines(lessons[0].topic, lessons[0].before, lessons[0].text) + "Question:"
    before = LineSampler(*tiny).greedy([prompt], max_tokens=8)[0]
    after = LineSampler(learned, tokenizer).greedy([prompt], max_tokens=8)[0]
    assert after.log_prob > before.log_prob
    assert after.text != before.text
    assert [name for name, _ in learned.named_parameters()] == [name for name, _ in tiny[0].named_parameters()]
