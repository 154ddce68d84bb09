"""What is on the page, and where; what it does is in app.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from flanlite.agent.loop import Settings
from flanlite.agent.model import TEMPERATURES, TOP_PS
from flanlite.agent.tools import Toolbox
from flanlite.page import render

TRANSCRIPT_JS = Path(__file__).with_name("transcript.js").read_text(encoding="utf-8")

EXAMPLES = (
    ("convert_units", "How many pounds is 5 kg?"),
    ("calculate", "Calculate 17 * 23."),
    ("country_info", "What is the capital of Peru?"),
    ("to_roman", "Write 2026 as a Roman numeral."),
    ("add_days", "Which day is 90 days after 2026-11-20?"),
    ("", "What is the weather in Oslo?"),
)
"""Questions that begin a chat, and the tool that each is for; the last one asks for what no tool here does."""


@dataclass
class Widgets:
    """The parts of the page that events read and change."""

    head: gr.HTML
    transcripts: list[gr.HTML]
    examples: gr.Row
    example_buttons: list[gr.Button]
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    retry: gr.Button
    edit: gr.Button
    clear: gr.Button
    export: gr.DownloadButton
    seen: gr.HTML
    tool_names: gr.CheckboxGroup
    system: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    max_steps: gr.Slider
    max_new_tokens: gr.Slider


def lay_out(model_names: Sequence[str], toolbox: Toolbox, settings: Settings) -> Widgets:
    """Put everything on the page that is being built: the chat, or a chat for each model side by side."""
    head = gr.HTML(render.head(model_names, ()), elem_classes="fl")
    with gr.Row(equal_height=False, elem_id="page"):
        with gr.Column(scale=5, min_width=320):
            with gr.Row(equal_height=False, elem_classes="several" if len(model_names) > 1 else None):
                transcripts = [_lay_out_transcript(name, is_alone=len(model_names) == 1) for name in model_names]
            with gr.Row(elem_id="examples") as examples:
                example_buttons = [gr.Button(question, size="sm") for question in _fitting_examples(toolbox)]
            with gr.Row(elem_id="ask"):
                box = gr.Textbox(placeholder="Ask something", show_label=False, container=False, max_lines=6, scale=8)
                send = gr.Button("Send", variant="primary", scale=1, min_width=80)
                stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, visible=False)
            with gr.Row(elem_id="actions"):
                retry, edit, clear = (
                    gr.Button(label, size="sm", min_width=64, interactive=False) for label in ("Retry", "Edit", "Clear")
                )
                export = gr.DownloadButton("Export", size="sm", min_width=64, interactive=False)
            with gr.Accordion("What the model saw", open=False):
                seen = gr.HTML(render.prompts(None), js_on_load=TRANSCRIPT_JS, elem_classes="fl")
        with gr.Column(scale=2, min_width=280, elem_id="side"):
            controls = _lay_out_controls(toolbox, settings)
    return Widgets(
        head, transcripts, examples, example_buttons, box, send, stop, retry, edit, clear, export, seen, *controls
    )


def _fitting_examples(toolbox: Toolbox) -> list[str]:
    return [question for tool, question in EXAMPLES if not tool or tool in toolbox.names]


def _lay_out_controls(
    toolbox: Toolbox, settings: Settings
) -> tuple[gr.CheckboxGroup, gr.Textbox, gr.Slider, gr.Slider, gr.Slider, gr.Slider]:
    names, sampling = list(toolbox.names), settings.sampling
    tool_names = gr.CheckboxGroup(names, value=names, label="Tools on offer", elem_id="tool-names")
    with gr.Accordion("What the tools do", open=False):
        gr.HTML(render.schemas(toolbox.bound), js_on_load=TRANSCRIPT_JS, elem_classes="fl")
    with gr.Accordion("Settings", open=False):
        system = gr.Textbox(settings.system, label="System prompt", lines=2, info="Stands before the list of tools.")
        temperature = gr.Slider(*TEMPERATURES, sampling.temperature, step=0.05, label="Temperature")
        top_p = gr.Slider(*TOP_PS, sampling.top_p, step=0.05, label="Top-p")
        max_steps = gr.Slider(1, 20, settings.max_steps, step=1, label="Steps at most")
        max_new_tokens = gr.Slider(16, 2048, sampling.max_new_tokens, step=16, label="New tokens a reply at most")
    return tool_names, system, temperature, top_p, max_steps, max_new_tokens


def _lay_out_transcript(model_name: str, *, is_alone: bool) -> gr.HTML:
    with gr.Column(min_width=260):
        if not is_alone:
            gr.HTML(render.column_title(model_name), elem_classes="fl")
        return gr.HTML(
            render.transcript([], model_name),
            js_on_load=TRANSCRIPT_JS,
            elem_classes=["fl", "transcript"],
        )
