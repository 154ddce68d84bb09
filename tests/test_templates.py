"""Each template against its reference, and no template ever trains what the assistant did not write."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizer import byte_level_folder

from flanlite.conversation import Turn
from flanlite.corpus.forms import detect_form, read_row
from flanlite.errors import FlanliteError
from flanlite.prompt.agent_flan import ASSISTANT, END_OF_TURN, HUMAN
from flanlite.prompt.llama2 import Llama2
from flanlite.prompt.segments import BREAK, Segment, break_marks
from flanlite.prompt.template import MASKED, choose_template, tokenize
from flanlite.prompt.tokenizer import Tokenizer
from flanlite.prompt.toolcalls import as_text

LLAMA2_MARKS = Llama2.marks
TEMPLATES = Path(__file__).parent / "templates"
JINJA = {"chatml": (None, "<|im_end|>"), "thinking": (None, "<|im_end|>"), "mistral": ("<s>", "</s>"),
         "llama3": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<s>", "<|im_end|>")}  # fmt: skip


def user(text: str) -> Turn:
    return Turn("user", text)


def assistant(text: str, trained: bool = True) -> Turn:
    return Turn("assistant", text, trained=trained)


CONVERSATIONS = {
    "one exchange": [user("Hi"), assistant("Hello!")],
    "a system turn": [Turn("system", "You are brief."), user("Hi"), assistant("Hello!")],
    "many turns": [user("a"), assistant("b"), user("c"), assistant("d"), user("e"), assistant("f")],
    "observations": [user("What is 2+2?"), assistant("Action: add"), Turn("observation", "4"), assistant("It is 4.")],
    "turns of one side in a row": [user("a"), user("b"), Turn("observation", "c"), assistant("d"), assistant("e")],
    "unicode": [user("Héllo wörld 😀 日本語"), assistant("Çá va? \u0d15\u0d47\u0d30\u0d33\u0d02 🎉")],
    "blanks around": [Turn("system", "  s \n"), user("  a  \n"), assistant("\n\n b\t ")],
    "inner blanks and lines": [user("a  b   c\n\n\n  d"), assistant("x\n    indented\n\n  y")],
    "an untrained turn": [user("a"), assistant("b", trained=False), user("c"), assistant("d")],
    "empty texts": [user(""), assistant("x"), user("y"), assistant("")],
}


def meta_reference_ids(model, turns: list[Turn]) -> list[int]:
    """Ids as in Meta's llama/generation.py, with turns of one side joined by a newline first."""
    system = turns[0].text if turns[0].role == "system" else None
    messages: list[tuple[bool, str]] = []
    for turn in turns[system is not None :]:
        is_answer = turn.role == "assistant"
        if messages and messages[-1][0] == is_answer:
            messages[-1] = (is_answer, messages[-1][1] + "\n" + turn.text)
        else:
            messages.append((is_answer, turn.text))
    if system is not None:
        messages[0] = (False, f"<<SYS>>\n{system}\n<</SYS>>\n\n{messages[0][1]}")
    ids: list[int] = []
    for (_, prompt), (_, answer) in zip(messages[::2], messages[1::2], strict=True):
        text = f"[INST] {prompt.strip()} [/INST] {answer.strip()} "
        ids += [model.bos_id(), *model.encode(text), model.eos_id()]
    return ids


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_llama2_ids_equal_metas_reference(name, llama2_tokenizer, sentencepiece_model):
    turns = CONVERSATIONS[name]
    template = choose_template("llama2", llama2_tokenizer)
    assert tokenize(template, llama2_tokenizer, turns).ids == meta_reference_ids(sentencepiece_model, turns)


def test_an_open_llama2_exchange_ends_behind_the_instruction(llama2_tokenizer, sentencepiece_model):
    template = choose_template("llama2", llama2_tokenizer)
    tokens = tokenize(template, llama2_tokenizer, [user(" Hi ")], is_open=True)
    assert tokens.ids == [1, *sentencepiece_model.encode("[INST] Hi [/INST]")]
    assert tokens.ids[1] == 518  # the piece with its blank: `▁[`


def test_llama2_ids_and_masks_are_right_on_all_real_conversations(llama2_tokenizer, sentencepiece_model, shared_data):
    template = choose_template("llama2", llama2_tokenizer)
    count = 0
    for turns in real_conversations(shared_data):
        tokens = tokenize(template, llama2_tokenizer, turns)
        assert tokens.ids == meta_reference_ids(sentencepiece_model, turns)
        check_masks(tokens, turns, llama2_tokenizer)
        count += 1
    assert count >= 1000


def real_conversations(shared_data: Path):
    """The public conversations as turns that end with the assistant, without the few that hold marks."""
    for file in ("fireact/multitask.jsonl", "glaive/glaive_toolcall_en_demo.json", "sharegpt/dummy_conversation.json"):
        text = (shared_data / file).read_text(encoding="utf-8")
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        for row in rows:
            turns = as_text(read_row(row, detect_form(row)), "react")
            turns, broken = break_marks(turns, LLAMA2_MARKS, in_answers=True)
            last = max(index for index, turn in enumerate(turns) if turn.role == "assistant")
            first = next(turn for turn in turns if turn.role != "system")
            if not broken and first.role == "user":
                yield turns[: last + 1]


def check_masks(tokens, turns, tokenizer) -> None:
    """Spans cover the ids; labels are the ids where trained; only assistant spans are trained, and all of those."""
    assert sum(span.tokens for span in tokens.spans) == len(tokens.ids) == len(tokens.labels)
    start = 0
    for span in tokens.spans:
        labels = tokens.labels[start : start + span.tokens]
        assert labels == (tokens.ids[start : start + span.tokens] if span.trained else [MASKED] * span.tokens)
        assert span.role == "assistant" or not span.trained
        start += span.tokens


def trained_texts(tokens, tokenizer) -> list[str]:
    texts, start = [], 0
    for span in tokens.spans:
        if span.trained:
            texts.append(tokenizer.decode(tokens.ids[start : start + span.tokens], with_specials=True))
        start += span.tokens
    return texts


def test_llama2_trains_the_answer_and_its_end_and_nothing_else(llama2_tokenizer):
    template = choose_template("llama2", llama2_tokenizer)
    tokens = tokenize(template, llama2_tokenizer, CONVERSATIONS["observations"])
    assert trained_texts(tokens, llama2_tokenizer) == ["Action: add </s>", "It is 4. </s>"]


def test_one_of_two_answers_in_a_row_is_trained_alone(llama2_tokenizer):
    template = choose_template("llama2", llama2_tokenizer)
    tokens = tokenize(template, llama2_tokenizer, [user("a"), assistant("first", trained=False), assistant("second")])
    assert [text.strip() for text in trained_texts(tokens, llama2_tokenizer)] == ["second </s>"]


def agent_flan_text(turns: list[Turn]) -> str:
    parts = [
        f"{ASSISTANT}{turn.text}{END_OF_TURN}\n " if turn.role == "assistant" else f"{HUMAN}{turn.text}\n "
        for turn in turns
    ]
    return "".join(parts)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_agent_flan_ids_are_one_encode_of_the_whole_text(name, llama2_tokenizer, sentencepiece_model):
    turns = CONVERSATIONS[name]
    template = choose_template("agent-flan", llama2_tokenizer)
    tokens = tokenize(template, llama2_tokenizer, turns)
    assert tokens.ids == [1, *sentencepiece_model.encode(agent_flan_text(turns))]
    check_masks(tokens, turns, llama2_tokenizer)


def test_agent_flan_trains_up_to_its_end_mark_and_stops_on_it(llama2_tokenizer):
    template = choose_template("agent-flan", llama2_tokenizer)
    tokens = tokenize(template, llama2_tokenizer, CONVERSATIONS["many turns"])
    trained = [label for label in tokens.labels if label != MASKED]
    assert template.stop_ids == (30387,)
    assert trained.count(30387) == 3
    assert trained[-1] == 30387
    assert tokens.labels[-2:] == [MASKED, MASKED]  # the newline and the blank behind the last mark
    between = [pair for pair in pairwise(tokens.ids) if pair[0] == 13 and pair[1] != 29871]
    assert set(between) == {(13, 529)}


def test_an_open_agent_flan_prompt_is_a_prefix_of_the_finished_one(llama2_tokenizer):
    template = choose_template("agent-flan", llama2_tokenizer)
    turns = CONVERSATIONS["many turns"]
    whole = tokenize(template, llama2_tokenizer, turns).ids
    opened = tokenize(template, llama2_tokenizer, turns[:-1], is_open=True).ids
    assert whole[: len(opened)] == opened


def test_agent_flan_is_refused_for_a_vocabulary_without_its_mark(tmp_path):
    tokenizer = Tokenizer.load(byte_level_folder(tmp_path, "", "<s>", "</s>"))
    with pytest.raises(FlanliteError, match="U\\+0D3F"):
        choose_template("agent-flan", tokenizer)


@pytest.fixture(scope="module", params=JINJA)
def jinja_tokenizer(request, tmp_path_factory) -> Tokenizer:
    source = (TEMPLATES / f"{request.param}.jinja").read_text(encoding="utf-8").rstrip("\n")
    folder = byte_level_folder(tmp_path_factory.mktemp(request.param), source, *JINJA[request.param])
    return Tokenizer.load(folder)


def reference_ids(tokenizer: Tokenizer, turns: list[Turn], folder: Path) -> list[int]:
    """What transformers' apply_chat_template makes of the conversation, sides joined, a refused system turn folded."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(folder)
    reference = PreTrainedTokenizerFast.from_pretrained(folder)
    messages: list[dict[str, str]] = []
    for turn in turns:
        role = turn.role if turn.role in ("system", "assistant") else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n" + turn.text
        else:
            messages.append({"role": role, "content": turn.text})
    try:
        return reference.apply_chat_template(messages, return_dict=False)
    except Exception:
        system, first, *rest = messages
        folded = {"role": "user", "content": f"{system['content']}\n\n{first['content']}"}
        return reference.apply_chat_template([folded, *rest], return_dict=False)


# Left out: where a text begins with a newline, transformers may make one token of it and the header's newline, which no
# prompt in a chat has; and an empty answer's header, which has nothing to end on.
@pytest.mark.parametrize("name", [name for name in CONVERSATIONS if name not in ("empty texts", "blanks around")])
def test_a_bases_own_template_gives_the_ids_of_transformers(name, jinja_tokenizer, tmp_path):
    turns = CONVERSATIONS[name]
    if "<think>" in jinja_tokenizer.chat_template and sum(turn.role == "assistant" for turn in turns) > 1:
        pytest.skip(
            "answers before the last stand behind the prompt they are asked with, not as transformers shows them"
        )
    tokens = tokenize(choose_template("auto", jinja_tokenizer), jinja_tokenizer, turns)
    assert tokens.ids == reference_ids(jinja_tokenizer, turns, tmp_path)
    check_masks(tokens, turns, jinja_tokenizer)


def test_a_bases_own_template_trains_answers_and_the_token_that_ends_them(jinja_tokenizer):
    template = choose_template("auto", jinja_tokenizer)
    tokens = tokenize(template, jinja_tokenizer, CONVERSATIONS["an untrained turn"])
    end = jinja_tokenizer.eos_token
    assert [text.strip() for text in trained_texts(tokens, jinja_tokenizer)] == [f"d{end}"]
    assert template.stop_ids[0] == jinja_tokenizer.id_of(end)


def test_every_answer_is_asked_for_as_it_was_taught(jinja_tokenizer):
    """A chat asks behind the generation prompt, which some templates write otherwise before earlier answers."""
    template = choose_template("auto", jinja_tokenizer)
    turns = CONVERSATIONS["observations"]
    whole = tokenize(template, jinja_tokenizer, turns)
    prompt = template.render([user("x")], is_open=True)[-1].text
    prompt_ids = jinja_tokenizer.encode_with_specials([Segment(prompt.removeprefix("x"))])[0]
    starts = [
        sum(span.tokens for span in whole.spans[:index]) for index, span in enumerate(whole.spans) if span.trained
    ]
    assert len(starts) == 2
    for start in starts:
        length = min(3, len(prompt_ids))
        assert whole.ids[start - length : start] == prompt_ids[-length:]


def test_marks_that_a_template_writes_as_plain_text_are_broken_too(jinja_tokenizer):
    template = choose_template("auto", jinja_tokenizer)
    if "[INST]" not in jinja_tokenizer.chat_template:
        pytest.skip("this template writes control tokens only")
    broken, count = break_marks([user("x [/INST] sure [INST] y")], template.marks, in_answers=True)
    assert count == 2
    assert "[/INST]" not in broken[0].text


def test_a_template_that_rewrites_a_turn_is_refused_with_the_reason(tmp_path):
    source = (TEMPLATES / "thinking.jinja").read_text(encoding="utf-8")
    tokenizer = Tokenizer.load(byte_level_folder(tmp_path, source, None, "<|im_end|>"))
    template = choose_template("auto", tokenizer)
    with pytest.raises(ValueError, match="rewrites the text"):
        template.render([user("a"), assistant("<think>hm</think>\n\nb")])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>{% endfor %}", "leaves out"),
        ("{{ messages[0].content + nothing.at_all }}<|im_end|>", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for i in range(999999999) %}{% endfor %}", "Range too big"),
    ],
)
def test_a_template_that_cannot_be_used_says_what_to_choose(tmp_path, source, reason):
    tokenizer = Tokenizer.load(byte_level_folder(tmp_path, source, None, "<|im_end|>"))
    with pytest.raises(FlanliteError, match=f"The base's chat template .*{reason}") as raised:
        choose_template("auto", tokenizer)
    assert raised.value.hint == "Choose template=llama2."


def test_a_template_that_asks_for_the_date_is_told_the_same_one_every_day(tmp_path):
    source = (TEMPLATES / "chatml.jinja").read_text(encoding="utf-8").rstrip("\n")
    dated = "{{ strftime_now('%d %b %Y') }} " + source
    template = choose_template("auto", Tokenizer.load(byte_level_folder(tmp_path, dated, None, "<|im_end|>")))
    assert template.render([user("a"), assistant("b")])[0].text.startswith("26 Jul 2024<|im_start|>")


def test_a_base_without_a_chat_template_says_what_to_choose(tmp_path):
    tokenizer = Tokenizer.load(byte_level_folder(tmp_path, "", "<s>", "</s>"))
    with pytest.raises(FlanliteError, match="no chat template"):
        choose_template("auto", tokenizer)


def test_a_llama2_base_comes_by_its_own_template(tmp_path):
    source = "{{ '[INST] <<SYS>>' }}"
    tokenizer = Tokenizer.load(byte_level_folder(tmp_path, source, "<s>", "</s>"))
    assert choose_template("auto", tokenizer).name == "llama2"


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("template_name", ["llama2", "agent-flan"])
def test_the_exported_jinja_template_writes_the_same_text(name, template_name, llama2_tokenizer):
    from flanlite.prompt.jinja import _environment

    template = choose_template(template_name, llama2_tokenizer)
    for is_open in (False, True):
        turns = CONVERSATIONS[name][: -1 if is_open else None]
        text = "".join(segment.text for segment in template.render(turns, is_open=is_open))
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        rendered = (
            _environment()
            .from_string(template.chat_template)
            .render(messages=messages, add_generation_prompt=is_open, bos_token="<s>", eos_token="</s>")
        )
        assert rendered == text


def test_marks_in_a_turn_are_broken_with_one_character_and_counted():
    turns = [user("x [/INST] y </s><s>[INST] z"), Turn("observation", "<<SYS>>"), assistant("<s>old</s>")]
    broken, count = break_marks(turns, LLAMA2_MARKS, in_answers=False)
    assert count == 5
    assert broken[1].text == f"<{BREAK}<SYS>>"
    assert broken[0].text.replace(BREAK, "") == turns[0].text
    assert broken[2] is turns[2]


def test_a_control_token_in_a_text_is_plain_text_to_llama2(llama2_tokenizer):
    template = choose_template("llama2", llama2_tokenizer)
    tokens = tokenize(template, llama2_tokenizer, [user("a </s> b"), assistant("c")])
    assert tokens.ids.count(2) == 1


TEXTS = st.text(
    st.one_of(
        st.sampled_from(' \n\t[]INST/<>|SYa."{}0123456789▁\u0d46\u0d3f\u200b'),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=40,
)
TURNS = st.lists(
    st.one_of(
        st.builds(Turn, st.sampled_from(["user", "observation"]), TEXTS),
        st.builds(assistant, TEXTS, st.booleans()),
    ),
    min_size=1,
    max_size=7,
)
SYSTEM = st.one_of(st.none(), TEXTS)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(system=SYSTEM, turns=TURNS)
def test_llama2_equals_the_reference_on_random_conversations(llama2_tokenizer, sentencepiece_model, system, turns):
    whole = [*([Turn("system", system)] if system is not None else []), user("q"), *turns, assistant("end")]
    tokens = tokenize(choose_template("llama2", llama2_tokenizer), llama2_tokenizer, whole)
    assert tokens.ids == meta_reference_ids(sentencepiece_model, whole)
    check_masks(tokens, whole, llama2_tokenizer)


@MANY
@given(system=SYSTEM, turns=TURNS)
def test_agent_flan_equals_one_encode_on_random_conversations(llama2_tokenizer, sentencepiece_model, system, turns):
    whole = [*([Turn("system", system)] if system is not None else []), *turns]
    tokens = tokenize(choose_template("agent-flan", llama2_tokenizer), llama2_tokenizer, whole)
    assert tokens.ids == [1, *sentencepiece_model.encode(agent_flan_text(whole))]
    check_masks(tokens, whole, llama2_tokenizer)


@pytest.mark.parametrize("flags", list(product((False, True), repeat=4)))
def test_a_token_across_several_turns_is_masked_where_one_of_them_is(jinja_tokenizer, flags):
    template = choose_template("auto", jinja_tokenizer)
    turns = [assistant(text, trained=flag) for text, flag in zip(("", "", "", "0"), flags, strict=True)]
    whole = [user("q"), *turns, assistant("end")]
    check_masks(tokenize(template, jinja_tokenizer, whole), whole, jinja_tokenizer)


@MANY
@given(system=SYSTEM, turns=TURNS)
def test_masks_hold_on_random_conversations_in_a_bases_own_template(jinja_tokenizer, system, turns):
    template = choose_template("auto", jinja_tokenizer)
    whole = [*([Turn("system", system)] if system is not None else []), user("q"), *turns, assistant("end")]
    broken, _ = break_marks(whole, template.marks, in_answers=True)
    tokens = tokenize(template, jinja_tokenizer, broken)
    check_masks(tokens, whole, jinja_tokenizer)
    ends = sum(label in template.stop_ids for label in tokens.labels)
    sides = [turn.role == "assistant" for turn in whole if turn.role != "system"]
    runs = [index for index, side in enumerate(sides) if side and (index + 1 == len(sides) or not sides[index + 1])]
    turns_only = [turn for turn in whole if turn.role != "system"]
    assert ends == sum(turns_only[index].trained for index in runs)
