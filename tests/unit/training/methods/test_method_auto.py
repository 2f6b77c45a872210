"""`method: auto` walks the decision tree, says why, and never changes what the user set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafarm_ray.config import MethodParameters
from llamafarm_ray.config.sections.fine_tuning import Intent
from llamafarm_ray.training.methods.auto import Hardware, choose_method

GIB = 1024**3
CPU = Hardware(num_cpus=4)
GPU16 = Hardware(num_cpus=16, num_gpus=1, gpu_memory_bytes=16 * GIB)
GPU80 = Hardware(num_cpus=16, num_gpus=2, gpu_memory_bytes=80 * GIB, has_bf16=True)
QUALITY, MANY = Intent(goal="quality"), Intent(goal="many_tasks")

hardware = st.builds(
    Hardware,
    num_cpus=st.integers(1, 64),
    num_gpus=st.integers(0, 16),
    gpu_memory_bytes=st.integers(1, 192).map(lambda gib: gib * GIB),
)
intents = st.builds(Intent, goal=st.sampled_from(["balanced", "quality", "many_tasks"]), production=st.booleans())


def choose(found, *, billions, rows, intent=None, parameters=None):
    return choose_method(found, num_parameters=int(billions * 1e9), num_rows=rows, intent=intent, parameters=parameters)


@pytest.mark.parametrize(
    ("found", "billions", "rows", "intent", "expected"),
    [
        (GPU16, 13, 100, QUALITY, "lora"),
        (GPU16, 13.1, 100, QUALITY, "qlora"),
        (GPU16, 13.1, 10**6, QUALITY, "qlora"),
        (GPU80, 7, 100_001, QUALITY, "full"),  # 131 GiB: two GPUs together
        (GPU80, 7, 100_001, Intent(), "lora"),
        (GPU80, 7, 100_000, QUALITY, "lora"),
        (GPU80, 13, 100_001, QUALITY, "lora"),  # 242 GiB
        (GPU80, 1, 100_001, MANY, "lora"),  # a whole model a task can't be swapped
        (GPU80, 70, 100_001, MANY, "qlora"),
        (CPU, 70, 10**6, QUALITY, "lora"),
    ],
)
def test_the_tree_with_an_intent(found, billions, rows, intent, expected):
    assert choose(found, billions=billions, rows=rows, intent=intent).name == expected


def test_few_rows_and_quality_take_a_higher_rank_of_the_same_scale():
    choice = choose(GPU80, billions=7, rows=9_999, intent=QUALITY)
    assert choice.changes == {"r": 64, "lora_alpha": 128}
    assert choice.reasons[-1] == "Quality is the goal and 9999 rows are few (less than 10,000): rank 64 instead of 16."
    assert choice.apply(MethodParameters()).r == 64
    for rows, intent in ((10_000, QUALITY), (9_999, Intent()), (9_999, MANY)):
        assert choose(GPU80, billions=7, rows=rows, intent=intent).changes == {}


def test_a_rank_that_the_user_set_is_kept_and_that_is_said():
    mine = MethodParameters(r=8)
    choice = choose(CPU, billions=1, rows=10, intent=QUALITY, parameters=mine)
    assert choice.apply(mine) is mine
    assert "r is set to 8, so it is kept" in choice.reasons[-1]
    mine = MethodParameters(lora_alpha=5)
    assert choose(CPU, billions=1, rows=10, intent=QUALITY, parameters=mine).apply(mine).lora_alpha == 5


@pytest.mark.parametrize(
    ("intent", "said"),
    [
        (MANY, "hot-swap them, since requests switch"),
        (Intent(goal="many_tasks", task_switching="static"), "serve them side by side"),
        (Intent(production=True), "merge the adapter into its base"),
        (Intent(goal="many_tasks", production=True), "serve them from the registry"),
    ],
)
def test_how_to_deploy_is_among_the_reasons(intent, said):
    reasons = choose(GPU16, billions=7, rows=1000, intent=intent).reasons
    assert said in reasons[-1]


def test_a_whole_model_is_not_merged():
    choice = choose(GPU80, billions=1, rows=10**6, intent=Intent(production=True))
    assert (choice.name, choice.reasons[-1]) == (
        "full",
        "For production: what is trained is a whole model, so it is served as it is.",
    )


@given(hardware, st.floats(0.01, 500), st.integers(1, 10**7), intents)
def test_there_is_always_a_choice_with_sentences_for_reasons(found, billions, rows, intent):
    choice = choose(found, billions=billions, rows=rows, intent=intent)
    assert choice.name in ("lora", "qlora", "full")
    assert all(reason[0].isupper() or reason[0].isdigit() for reason in choice.reasons)
    assert all(reason.endswith(".") and "  " not in reason for reason in choice.reasons)
    assert choice == choose(found, billions=billions, rows=rows, intent=intent)
    if choice.name == "full":
        assert billions * 1e9 * 16 <= found.num_gpus * found.gpu_memory_bytes
    if choice.changes:
        assert choice.name != "full"


@given(hardware, st.floats(0.01, 500), st.integers(1, 10**7), intents, st.integers(1, 512), st.integers(1, 1024))
def test_what_the_user_set_is_never_changed(found, billions, rows, intent, r, alpha):
    mine = MethodParameters(r=r, lora_alpha=alpha)
    assert choose(found, billions=billions, rows=rows, intent=intent, parameters=mine).apply(mine) == mine
