import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from autocompress.models.endings import Ending, EndingCriteria, repeats
from tests.tiny_models import make_tokenizer

TOKENIZER: PreTrainedTokenizerFast = make_tokenizer()
END_OF_TEXT = 0


def answer(stop: str, text: str) -> tuple[str, int]:
    """Return what is shown of a text, and how many of its tokens are the answer's."""
    tokens = TOKENIZER(text)["input_ids"]
    ending = Ending(stop, TOKENIZER, [END_OF_TEXT])
    length = ending.length(tokens)
    return ending.shown(tokens[:length])[0], length


@pytest.mark.parametrize("stop", ["none", "line", "repeat"])
def test_an_end_of_text_ends_every_answer_and_is_not_shown(stop: str) -> None:
    ending = Ending(stop, TOKENIZER, [END_OF_TEXT])

    assert ending.length([40, 41, END_OF_TEXT, 42, 43]) == 3
    assert ending.shown([40, 41, END_OF_TEXT]) == (TOKENIZER.decode([40, 41]), (40, 41))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("import os\nimport sys\n", "import os"),
        ("\n\n  \n  import os\n\n", "\n\n  \n  import os"),
        ("import os", "import os"),
        ("\n \n", "\n \n"),
    ],
)
def test_a_line_ends_behind_something_that_is_not_blank(text: str, shown: str) -> None:
    assert answer("line", text)[0] == shown


def test_without_a_rule_lines_go_on() -> None:
    assert answer("none", "import os\nimport sys\n")[0] == "import os\nimport sys\n"


@given(
    start=st.lists(st.integers(0, 9), max_size=20),
    span=st.lists(st.integers(10, 99), min_size=4, max_size=32, unique=True),
)
def test_a_span_said_three_times_ends_an_answer(start: list[int], span: list[int]) -> None:
    ending = Ending("repeat", TOKENIZER, [])

    assert ending.length(start + 4 * span) == len(start) + 3 * len(span)


@pytest.mark.parametrize(
    "said", [[1, 2, 3] * 3, list(range(40)) * 3, [1, 2, 3, 4] * 2, [1, 2, 3, 4] * 2 + [1, 2, 3]]
)
def test_shorter_and_longer_spans_and_fewer_times_end_nothing(said: list[int]) -> None:
    assert not repeats(said)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=60))
def test_a_repeat_is_one_by_its_definition(said: list[int]) -> None:
    spans = [said[-span:] for span in range(4, 33) if 3 * span <= len(said)]

    assert repeats(said) == any(said[-3 * len(span) :] == 3 * span for span in spans)


def test_generate_is_told_of_each_row_by_itself() -> None:
    first, second = (TOKENIZER(text)["input_ids"] for text in ("a\n", "ab"))
    criteria = EndingCriteria(Ending("line", TOKENIZER, []), prompt_tokens=3)
    prompt = TOKENIZER("\na\n")["input_ids"]

    over = criteria(torch.tensor([prompt + first, prompt + second]), None)

    assert over.tolist() == [True, False]
