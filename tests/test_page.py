"""The page: events to HTML, and the whole of it in a real browser with a scripted model."""

from __future__ import annotations

import gc
import json
import re
import shutil
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_model import ScriptedModel, until

from flanlite.agent.events import Answer, Asked, Call, Exchange, Failure, Observation, Stopped, Thought, Waiting
from flanlite.agent.loop import Settings
from flanlite.agent.model import Prompt
from flanlite.agent.tools import Toolbox, tool_from
from flanlite.conversation import ToolCall
from flanlite.corpus.forms import read_row
from flanlite.page import render

# gradio 6.31 uses of pandas what pandas 3 has given up, and leaves the socket open with which it looks for a port.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def no_socket_is_left_for_the_next_test() -> Iterator[None]:
    yield
    gc.collect()


FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--disable-quic",
)  # fmt: skip


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


TOOLBOX = Toolbox([tool_from(add, "test")])
CALL = 'Thought: Add them.\nAction: add\nAction Input: {"a": 2, "b": 3}'
ANSWER = "Thought: I have it.\nFinal Answer: It is 5."
NASTY = "<script>document.title='owned'</script> <s> <<SYS>> <b>bold</b> ![x](http://example.com/x.png) & `<i>`"


class Reader(HTMLParser):
    """What a browser makes of HTML: its tags, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def exchange(*events: Any, question: str = "2 + 3?") -> Exchange:
    done = Exchange(question)
    for event in events:
        done = done.with_event(event)
    return done


def test_a_call_shows_its_name_arguments_status_time_and_result() -> None:
    call = ToolCall("add", {"a": 2, "b": "three"})
    html = render.transcript([exchange(Call(1, 0, call, "done", 0.0123), Observation(1, 0, "5"))], "m")
    text = re.sub(r"\s+", " ", Reader(html).text)
    for part in ("add", "a2", "bthree", "done", "12 ms", "Observation5"):
        assert part in text


@pytest.mark.parametrize(
    ("status", "words"),
    [("running", "running"), ("failed", "failed"), ("invented", "no such tool"), ("malformed", "malformed call")],
)
def test_the_state_of_a_call_is_said_in_words_and_as_a_class(status: Any, words: str) -> None:
    html = render.transcript([exchange(Call(1, 0, ToolCall("f", "{raw"), status))], "m")
    assert words in html
    assert f'class="call {status}"' in html
    assert "{raw" in Reader(html).text


def test_calls_of_one_step_stand_in_one_block_side_by_side() -> None:
    calls = [Call(1, index, ToolCall(f"f{index}"), "running") for index in range(3)]
    html = render.transcript([exchange(*calls)], "m")
    assert html.count('<div class="calls">') == 1
    assert html.count('<details class="call running"') == 3


def test_thoughts_calls_and_observations_fold_and_the_answer_stands_outside() -> None:
    html = render.transcript(
        [
            exchange(
                Thought(1, "T", True),
                Call(1, 0, ToolCall("f"), "done", 1),
                Observation(1, 0, "O"),
                Answer(2, "A", True),
            )
        ],
        "m",
    )
    step, answer = html.split('<div class="answer">')
    assert step.count("<details") == step.count("</details>") == 4
    assert "A" in answer
    assert "details" not in answer


def test_json_results_are_tables() -> None:
    rows = json.dumps([{"name": "Ada", "born": 1815}, {"name": "Alan", "died": 1954}])
    for result, tag in (
        ('{"a": [1, 2], "b": {"c": 3}}', "pairs"),
        (rows, "rows"),
        ("[1, 2]", ""),
        ("plain", ""),
        ("a | b\n1 | 2", "rows"),
    ):
        html = render.transcript([exchange(Call(1, 0, ToolCall("f"), "done", 1), Observation(1, 0, result))], "m")
        assert ('<table class="rows">' in html, '<table class="pairs">' in html) == (tag == "rows", tag == "pairs")


def test_newest_steps_are_unfolded_and_older_ones_are_not() -> None:
    done = exchange(Call(1, 0, ToolCall("f"), "done", 1), Observation(1, 0, "O"), Answer(2, "A", True))
    older, newer = render.transcript([done, done], "m").split("</section>")[:2]
    assert '<details class="step" data-key="0-1">' in older
    assert '<details class="step" data-key="1-1" open>' in newer


def test_waiting_cuts_failures_and_stops_are_told() -> None:
    prompt = Prompt((), 900, 1000, dropped_turns=4)
    told = {
        "Waiting: 3 before": exchange(Waiting(1, 3)),
        "4 turns, no longer fits into the model's 1,000 tokens": exchange(Asked(1, prompt)),
        "4 turns, no longer fits into the model's context and": exchange(Asked(1, Prompt((), dropped_turns=4))),
        "Too long.": exchange(Failure(1, "Too long.", "Ask for less.")),
        "Stopped.": exchange(Stopped(1)),
        "Cut at the limit of new tokens.": exchange(Answer(1, "A", True, is_cut=True)),
        "an empty reply": exchange(Answer(1, "", True)),
    }
    for words, one in told.items():
        assert words in Reader(render.transcript([one], "m")).text


def test_the_head_counts_calls_and_names_the_wrong_ones() -> None:
    one = exchange(Call(1, 0, ToolCall("f"), "done"), Call(1, 1, ToolCall("g"), "invented"))
    assert Reader(render.head(["m"], [[one]])).text == "m2 calls1 invented0 malformed"
    both = Reader(render.head(["b", "t"], [[exchange()], [one]])).text
    assert both == "b and tb 0 calls0 invented0 malformedt 2 calls1 invented0 malformed"


def test_the_prompt_is_shown_to_the_character_with_its_length() -> None:
    pieces = (("template", "<s>[INST] "), ("user", "a < b & <script>"), ("template", " [/INST]"))
    html = render.prompts(exchange(Asked(1, Prompt(pieces, 12, 4096))))
    assert "<s>[INST] a < b & <script> [/INST]" in Reader(html).text
    assert "12 of 4,096 tokens" in html


def test_schemas_show_every_parameter() -> None:
    assert {"test", "add", "Add two numbers.", "integer"} <= set(
        re.split(r"[<>]", render.schemas(TOOLBOX.bound))
    ) | set(re.findall(r"\w+", render.schemas(TOOLBOX.bound)))


TAGS_OF_OURS = {
    "div", "section", "details", "summary", "span", "p", "table", "tr", "th", "td", "code", "pre", "strong", "em", "ul",
    "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "hr", "br", "a", "thead", "tbody",
}  # fmt: skip


@given(st.text(alphabet="<>&\"'/!s[]()`*_#\n abi=:-", max_size=60) | st.sampled_from([NASTY, "</div></details>"]))
def test_no_text_of_a_model_tool_or_user_becomes_a_tag(text: str) -> None:
    one = exchange(
        Thought(1, text, True),
        Call(1, 0, ToolCall(text, {text: text, "list": [text], "map": {text: text}}), "done", 1),
        Observation(1, 0, text),
        Answer(2, text, True),
        Failure(2, text, text),
        question=text,
    )
    html = render.transcript([one], text)
    reader = Reader(html)
    assert set(reader.tags) <= TAGS_OF_OURS
    # Nothing leaves its block: the tags around it balance.
    for tag in ("div", "details", "section"):
        assert html.count(f"<{tag}") == html.count(f"</{tag}>")
    assert text in reader.text


def test_no_image_and_no_script_link_is_made_of_an_answer() -> None:
    assert 'target="_blank"' in render.markdown("[z](https://example.com)")
    assert "deep" in render.markdown(">" * 30 + " deep")
    html = render.markdown("![x](http://example.com/x.png) [y](javascript:alert(1)) [z](https://example.com)")
    assert "<img" not in html
    assert 'href="javascript' not in html
    assert 'href="https://example.com"' in html


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


class Served:
    """The page on a loopback port."""

    def __init__(self, *models: ScriptedModel) -> None:
        from flanlite.page.app import Page

        self.page = Page(models, TOOLBOX, Settings())
        self.url = self.page.serve(host="127.0.0.1", port=None, share=False, password=None, opens_browser=False)[0]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    opened: list[Served] = []

    def open_page(*models: ScriptedModel, **context: Any) -> Any:
        served = Served(*models)
        opened.append(served)
        tab = browser.new_context(accept_downloads=True, **context).new_page()
        tab.requests = []
        tab.on("request", lambda request: tab.requests.append(request.url))
        tab.goto(served.url)
        tab.wait_for_selector(".fl .empty")
        tab.served = served
        return tab

    yield open_page
    for served in opened:
        served.page.blocks.close()


def ask(tab: Any, question: str) -> None:
    tab.get_by_placeholder("Ask something").fill(question)
    tab.get_by_role("button", name="Send").click()


def test_a_question_becomes_a_call_a_result_and_an_answer_and_an_export_that_is_data(open_page, tmp_path) -> None:
    tab = open_page(ScriptedModel(CALL, ANSWER))
    ask(tab, "2 + 3?")
    tab.wait_for_selector("text=It is 5.")
    call = tab.locator(".fl .call.done")
    assert call.locator("summary code").first.inner_text() == "add"
    assert call.locator(".result").inner_text().strip() == "5"
    assert call.locator(".pairs").inner_text().split() == ["a", "2", "b", "3"]
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Export").click()
    file = tmp_path / "chat.jsonl"
    download.value.save_as(file)
    row = json.loads(file.read_text(encoding="utf-8"))
    assert [turn.trained for turn in read_row(row, "agent-flan").turns] == [False, False, True, False, True]
    assert all(url.startswith((tab.served.url, "data:", "blob:")) for url in tab.requests)


def test_tags_in_a_reply_are_text_and_an_invented_call_is_marked(open_page) -> None:
    tab = open_page(ScriptedModel('Action: fly\nAction Input: {"to": "<b>x</b>"}', NASTY))
    ask(tab, "Say <s> and <script>alert(1)</script>")
    tab.wait_for_selector(".fl .answer:not(.growing)")
    assert "<script>document.title='owned'</script> <s> <<SYS>> <b>bold</b>" in tab.locator(".answer").inner_text()
    assert tab.locator(".question").inner_text() == "Say <s> and <script>alert(1)</script>"
    assert "no such tool" in tab.locator(".fl .call.invented").inner_text()
    assert "<b>x</b>" in tab.locator(".fl .call.invented .pairs").inner_text()
    assert "1 invented" in tab.locator("header").inner_text()
    assert "owned" not in tab.title()
    assert all(url.startswith((tab.served.url, "data:", "blob:")) for url in tab.requests)


def test_stop_ends_a_reply_and_the_page_goes_on(open_page) -> None:
    tab = open_page(ScriptedModel("word " * 2000, "Here I am.", pause_s=0.02))
    ask(tab, "Talk")
    tab.wait_for_selector("text=word word")
    tab.get_by_role("button", name="Stop").click()
    tab.wait_for_selector("text=Stopped.")
    ask(tab, "Still there?")
    tab.wait_for_selector("text=Here I am.")


def test_edit_takes_the_question_back_retry_asks_it_again_and_clear_begins_anew(open_page) -> None:
    model = ScriptedModel("One.", "Two.", "Three.")
    tab = open_page(model)
    ask(tab, "Count")
    tab.wait_for_selector("text=One.")
    tab.get_by_role("button", name="Retry").click()
    tab.wait_for_selector("text=Two.")
    assert tab.locator(".question").count() == 1
    assert len(model.asked[1].turns) == 1
    tab.get_by_role("button", name="Edit").click()
    tab.wait_for_selector(".fl .empty")
    assert tab.get_by_placeholder("Ask something").input_value() == "Count"
    tab.get_by_role("button", name="Send").click()
    tab.wait_for_selector("text=Three.")
    tab.get_by_role("button", name="Clear").click()
    tab.wait_for_selector(".fl .empty")


def test_retry_keeps_a_draft_and_rests_while_nothing_was_asked(open_page) -> None:
    model = ScriptedModel("One.", "Two.")
    tab = open_page(model)
    assert tab.get_by_role("button", name="Retry").is_disabled()
    ask(tab, "Count")
    tab.wait_for_selector("text=One.")
    tab.get_by_role("button", name="Send").wait_for()
    tab.get_by_placeholder("Ask something").fill("a draft")
    tab.get_by_role("button", name="Retry").click()
    tab.wait_for_selector("text=Two.")
    assert tab.get_by_placeholder("Ask something").input_value() == "a draft"
    assert model.asked[1].turns[-1].text == "Count"


def test_a_chat_that_was_cleared_stays_empty(open_page) -> None:
    tab = open_page(ScriptedModel("word " * 200, pause_s=0.02))
    ask(tab, "Talk")
    tab.wait_for_selector(".fl .question")
    tab.get_by_role("button", name="Clear").evaluate("button => { button.disabled = false; button.click(); }")
    tab.wait_for_selector(".fl .empty")
    tab.wait_for_timeout(1500)
    assert tab.locator(".fl .exchange").count() == 0
    assert tab.get_by_role("button", name="Send").is_visible()


def test_what_is_no_text_or_nested_without_end_does_not_block_the_page(open_page) -> None:
    deep = '{"a": ' * 900 + "1" + "}" * 900
    for reply in ('Action: add\nAction Input: {"a": "\\ud800", "b": 1}', f"Action: add\nAction Input: {deep}"):
        tab = open_page(ScriptedModel(reply, "Over."))
        ask(tab, "2 + 3?")
        tab.wait_for_selector("text=Over.")
        tab.get_by_role("button", name="Send").wait_for()


def test_tools_are_switched_off_for_one_chat_and_the_system_text_is_edited(open_page) -> None:
    model = ScriptedModel("Yes.")
    tab = open_page(model)
    tab.get_by_label("add").uncheck()
    tab.get_by_role("button", name="Settings").click()
    tab.wait_for_timeout(500)  # gradio fills in the values of what it unfolds, over what is typed before
    tab.get_by_label("System prompt").fill("Be brief.")
    ask(tab, "Hi")
    tab.wait_for_selector("text=Yes.")
    assert model.asked[0].tools == ()
    assert model.asked[0].system == "Be brief."


def test_what_the_model_saw_is_there_to_read(open_page) -> None:
    tab = open_page(ScriptedModel("Yes."))
    ask(tab, "Is <s> shown?")
    tab.wait_for_selector("text=Yes.")
    tab.get_by_role("button", name="What the model saw").click()
    tab.wait_for_selector(".fl .prompt pre")
    assert tab.locator(".fl .prompt pre").inner_text() == "Is <s> shown?"
    assert "of 1,000 tokens" in tab.locator(".fl .prompt summary").inner_text()


def test_base_and_tuned_answer_side_by_side(open_page) -> None:
    tab = open_page(ScriptedModel("I do not know.", name="base"), ScriptedModel(CALL, ANSWER, name="tuned"))
    ask(tab, "2 + 3?")
    tab.wait_for_selector("text=It is 5.")
    tab.wait_for_selector("text=I do not know.")
    left, right = (tab.locator(".prose.transcript").nth(index).bounding_box() for index in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


def test_what_a_reader_folds_stays_folded_while_the_rest_is_written(open_page) -> None:
    tab = open_page(ScriptedModel(CALL, "word " * 200, pause_s=0.02))
    ask(tab, "2 + 3?")
    tab.wait_for_selector("text=word word")
    tab.locator(".fl .step > summary").click()
    written = len(tab.locator(".answer").inner_text())
    until(lambda: len(tab.locator(".answer").inner_text()) > written + 20)
    assert tab.locator(".fl .step").get_attribute("open") is None


def test_closing_the_tab_stops_the_generation(open_page) -> None:
    model = ScriptedModel("word " * 20_000, pause_s=0.01)
    tab = open_page(model)
    ask(tab, "Talk")
    tab.wait_for_selector("text=word word")
    threads = [thread for thread in threading.enumerate() if thread.name == "chat with scripted"]
    assert threads
    tab.context.close()
    until(lambda: not any(thread.is_alive() for thread in threads))


def test_a_phone_shows_all_without_scrolling_sideways(open_page) -> None:
    tab = open_page(ScriptedModel(CALL, ANSWER), viewport={"width": 360, "height": 740})
    ask(tab, "2 + 3?")
    tab.wait_for_selector("text=It is 5.")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_password_is_asked_for(browser: Any, tmp_path: Path) -> None:
    from flanlite.page.app import Page

    page = Page([ScriptedModel("Yes.")], TOOLBOX, Settings())
    url = page.serve(host="127.0.0.1", port=None, share=False, password="open sesame", opens_browser=False)[0]
    tab = browser.new_page()
    tab.goto(url)
    for password, admitted in (("wrong", False), ("open sesame", True)):
        tab.get_by_label("username").fill("anybody")
        tab.get_by_label("password").fill(password)
        tab.get_by_role("button", name="Login").click()
        if admitted:
            tab.wait_for_selector(".fl .empty")
        else:
            tab.wait_for_timeout(500)
            assert tab.locator(".fl .empty").count() == 0
    page.blocks.close()
