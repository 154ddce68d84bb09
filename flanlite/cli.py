"""The commands. A stage is imported inside its command, so that `--help` answers at once; errors end here alone."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from flanlite import __version__
from flanlite.corpus.flan.settings import BuildSettings
from flanlite.errors import FlanliteError
from flanlite.recipe import Recipe, load_recipe, meaning, recipe_for

if TYPE_CHECKING:
    from flanlite.run import Run

app = typer.Typer(
    help="Turn a chat model into an agent that calls tools and does not invent them, on the one card you have.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Boxes leave too little room for words in a window of 80 columns.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a FlanliteError becomes one sentence, one hint and exit code 1."""
    try:
        app(prog_name="flanlite")
    except FlanliteError as error:
        if "--debug" in sys.argv:
            raise
        _complain(error)
        raise SystemExit(1) from None
    except OSError as error:
        if "--debug" in sys.argv or error.errno not in _MENDABLE:
            raise
        where = f" {error.filename}" if error.filename else ""
        _complain(FlanliteError(f"The system refuses{where}: {error.strerror}.", _MENDABLE[error.errno]))
        raise SystemExit(1) from None


_MENDABLE = {
    errno.ENOSPC: "Free some space, or name a folder on another disk.",
    errno.EACCES: "Change its rights, or name another place.",
    errno.EPERM: "Change its rights, or name another place.",
    errno.ENOENT: "Name a place that is there.",
    errno.EROFS: "Name a place that can be written to.",
    errno.EEXIST: "A file stands in the way; name another place.",
    errno.ENOTDIR: "A part of the path is a file; name another place.",
    errno.EISDIR: "Name a file, not a folder.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def _complain(error: FlanliteError) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.message))
    if error.hint:
        console.print(Text.assemble(("Hint: ", "bold"), error.hint))


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"flanlite {__version__}")
        raise typer.Exit


def _setting(key: str, *names: str) -> Any:
    """An option that sets the recipe's key: it has the recipe's own meaning and, when left out, its value."""
    return typer.Option(*names, help=meaning(key), show_default=False)


def _choice(key: str, *names: str) -> Any:
    """As `_setting`, for a key whose values are a few words, which the help then shows."""
    words = "|".join(get_args(get_type_hints(Recipe)[key]))
    return typer.Option(*names, help=meaning(key), show_default=False, metavar=f"<{words}>")


Base = Annotated[str | None, _setting("base", "--base")]
Subset = Annotated[list[str] | None, _setting("subset", "--subset")]
General = Annotated[str | None, _setting("general", "--general")]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE|KEY=VALUE",
        help="a recipe's name or file, and settings; `flanlite tune --dry-run` lists every one",
    ),
]
Onto = Literal["base", "dequantised"]
Half = Literal["bfloat16", "float16"]
ChatStyle = Literal["react", "json", "openai"]
ChatSource = Annotated[
    str | None, typer.Argument(metavar="RUN|MODEL", help="run, merged model or base; left out: the newest run")
]
ToolStyleOption = Annotated[
    ChatStyle | None,
    typer.Option("--tool-style", help="how tools are offered to a model that no run taught; openai: natively"),
]
Variant = Literal["whole", "subset", "zh", "zh-subset"]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error", hidden=True)]


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _asked_for(words: list[str] | None, options: dict[str, Any], run: Run | None = None) -> tuple[Recipe, str]:
    """The recipe of a command's words and options, and its name in words; what they leave open is as in the run."""
    source = next((word for word in words or () if "=" not in word), None)
    pairs = [word for word in words or () if word != source]
    if run is None:
        return recipe_for(source, pairs, options)
    return load_recipe(source, pairs, options, run.recipe.with_open_setup()), f"The recipe of {run.folder}"


def _confirm(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:  # nobody is there to answer
        typer.echo(err=True)
        return False


@app.callback()
def flanlite(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Turn a chat model into an agent that calls tools and does not invent them, on the one card you have."""


@app.command()
def convert(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=meaning("data"), show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="the training set's folder", show_default=False)],
    base: Base = None,
    subset: Subset = None,
    form: Annotated[str | None, _choice("form", "--form")] = None,
    template: Annotated[str | None, _choice("template", "--template")] = None,
    tool_style: Annotated[str | None, _choice("tool_style", "--tool-style")] = None,
    max_tokens: Annotated[int | None, _setting("max_tokens", "--max-tokens")] = None,
    overlong: Annotated[str | None, _choice("overlong", "--overlong")] = None,
    debug: Debug = False,
) -> None:
    """Make a training set of token ids and labels out of data files.

    Example: `flanlite convert my_rows.jsonl --base llama2-7b-chat --out my_set`
    """
    from flanlite.convert import convert_for
    from flanlite.terminal import account_table, console, counted, say, show_losses

    options = _given(
        base=base, data=sources, subset=subset, form=form, template=template, tool_style=tool_style,
        max_tokens=max_tokens, overlong=overlong,
        batch_tokens=max_tokens,  # no step is made here that could be too short for a row
    )  # fmt: skip
    made = convert_for(load_recipe(None, settings=options), out)
    console.print(account_table(made.report["sources"]))
    show_losses(made.report["sources"], str(out))
    say(f"{out} holds {counted(len(made), 'row')}. Look at one: flanlite inspect {out} --row 0")


def _built(key: str, *names: str, **options: Any) -> Any:
    """An option of a build, with its meaning and its default."""
    return typer.Option(*names, help=meaning(key, BuildSettings), **options)


@app.command()
def build(
    out: Annotated[Path, typer.Option("--out", help="the corpus's folder", show_default=False)],
    agent_instruct: Annotated[
        list[str] | None, typer.Option("--agent-instruct", help="AgentInstruct's rows: files, folders or a hub name")
    ] = None,
    toolbench: Annotated[
        list[str] | None, typer.Option("--toolbench", help="ToolBench's answer trees, training file or queries")
    ] = None,
    trajectories: Annotated[
        list[str] | None, typer.Option("--trajectories", help="logs of your own agent, as OpenAI messages with tools")
    ] = None,
    sharegpt: Annotated[
        list[str] | None, typer.Option("--sharegpt", help="general chat; `sharegpt` fetches the usual file")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="also write a page with rows before and after")] = None,
    react: Annotated[float, _built("react", "--react")] = BuildSettings.react,
    fenced: Annotated[float, _built("fenced", "--fenced")] = BuildSettings.fenced,
    instruct: Annotated[float, _built("instruct", "--instruct")] = BuildSettings.instruct,
    agent_instruct_as: Annotated[
        Literal["both", "shares"], _built("agent_instruct", "--agent-instruct-as")
    ] = BuildSettings.agent_instruct,
    weights: Annotated[str, _built("weights", "--weights")] = BuildSettings.weights,
    negatives: Annotated[float, _built("negatives", "--negatives")] = BuildSettings.negatives,
    replies: Annotated[str, _built("replies", "--replies")] = BuildSettings.replies,
    model: Annotated[str | None, typer.Option("--model", help="which of the server's models writes replies")] = None,
    general_share: Annotated[float, _built("general_share", "--general-share")] = BuildSettings.general_share,
    mix_by: Annotated[Literal["tokens", "rows"], _built("mix_by", "--mix-by")] = BuildSettings.mix_by,
    tests: Annotated[
        list[Path] | None,
        typer.Option("--test", help="a test's questions, such as T-Eval's files, to be kept out; may be repeated"),
    ] = None,
    phrases: Annotated[
        Path | None, typer.Option("--phrases", help="your own questions that elicit each part of a call")
    ] = None,
    tool_style: Annotated[Literal["react", "json"], _built("tool_style", "--tool-style")] = BuildSettings.tool_style,
    base: Annotated[str, _built("base", "--base")] = BuildSettings.base,
    seed: Annotated[int, _built("seed", "--seed")] = BuildSettings.seed,
    debug: Debug = False,
) -> None:
    """Build a corpus as Agent-FLAN did. Out of raw trajectories and general chat.

    Example: `flanlite build --trajectories my_logs.jsonl --sharegpt sharegpt --out corpus --html corpus.html`
    """
    from flanlite.build import Inputs, show_manifest
    from flanlite.build import build as start
    from flanlite.terminal import say

    settings = BuildSettings(
        react, fenced, agent_instruct_as, instruct, weights, negatives, replies, general_share, mix_by, tool_style,
        base, seed,
    )  # fmt: skip
    inputs = Inputs(
        agent_instruct or (), toolbench or (), trajectories or (), sharegpt or (), tests or (), phrases, model
    )
    show_manifest(start(inputs, settings, out, html))
    say(f"Tune on it: flanlite tune --data {out}" + (f"; look at it: {html}" if html else ""))


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="TRAINING_SET", help="its folder", show_default=False)],
    row: Annotated[list[int] | None, typer.Option("--row", help="row to show, from 0; may be repeated")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="write a page to share instead")] = None,
    debug: Debug = False,
) -> None:
    """Show rows of a training set, trained text in colour. With token counts by role.

    Example: `flanlite inspect my_set --row 12`
    """
    from flanlite import inspect as stage
    from flanlite.terminal import console, say
    from flanlite.training_set import TrainingSet

    training_set = TrainingSet(folder)
    if html is None:
        stage.show(training_set, row or [0], console)
    else:
        stage.write_page(training_set, row or list(range(min(10, len(training_set)))), html)
        say(f"Wrote {html}.")


@app.command()
def tune(
    settings: Settings = None,
    base: Base = None,
    data: Annotated[list[str] | None, _setting("data", "--data")] = None,
    subset: Subset = None,
    general: General = None,
    out: Annotated[Path | None, typer.Option("--out", help="run folder; left out: a new one in runs/")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out, or with the newest")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the resolved recipe and stop")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask before a tune of many hours")] = False,
    debug: Debug = False,
) -> None:
    """Tune a base model into an agent. A 4-bit base, LoRA on every linear layer, packed rows, checkpoints.

    Examples: `flanlite tune --base tiny` and `flanlite tune --data my_rows.jsonl epochs=2`
    """
    from flanlite.run import open_run

    run = open_run(out) if resume else None
    # A mistake is told before anything heavy is imported.
    recipe, origin = _asked_for(settings, _given(base=base, data=data, subset=subset, general=general), run)

    from flanlite.terminal import say
    from flanlite.tune import decide, show_finished
    from flanlite.tune import tune as start

    if dry_run:
        try:
            typer.echo(f"# {origin}, resolved for this machine\n{decide(recipe).recipe.as_yaml()}", nl=False)
        except FlanliteError:
            typer.echo(f"# {origin}, not resolved: this machine cannot do it\n{recipe.as_yaml()}", nl=False)
            raise
        return
    say(f"{origin}; every setting of it: --dry-run")
    show_finished(start(recipe, out, resume=run, confirm=(lambda question: True) if yes else _confirm))


@app.command()
def plan(
    settings: Settings = None,
    base: Base = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="a card by name, such as rtx-4090; left out: yours")] = None,
    vram: Annotated[
        float | None, typer.Option("--vram", min=1, max=1000, help="GiB of memory that the card has")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="tell the time for these files, folders or hub names, which are converted for it"),
    ] = None,
    subset: Subset = None,
    general: General = None,
    tokens: Annotated[int | None, typer.Option("--tokens", min=1, help="tell the time for so many tokens")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print it for other programs")] = False,
    debug: Debug = False,
) -> None:
    """Plan a tune before any weights are fetched. Its memory by part, its layout, its speed and its download.

    Examples: `flanlite plan --base llama2-7b-chat` and `flanlite plan --gpu rtx-3060 --data my_rows.jsonl`
    """
    if data and tokens:
        raise FlanliteError("--tokens is the number that --data finds out.", "Give one of them.")
    recipe, origin = _asked_for(settings, _given(base=base, data=data, subset=subset, general=general))

    from flanlite import plan as stage

    made, base_model = stage.make_plan(recipe, gpu, vram)
    if data:
        from flanlite.tune import count_tokens

        tokens = count_tokens(recipe, made)
    if as_json:
        typer.echo(stage.as_json(made, recipe, base_model, tokens))
    else:
        stage.show(made, recipe, base_model, origin, tokens)


@app.command()
def bench(
    base: Annotated[
        str, typer.Option("--base", help="a base by name, or a folder with a config.json")
    ] = "llama2-7b-chat",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=64, max=2**17, help="length of a packed row, in tokens")
    ] = 2048,
    vram: Annotated[
        float | None, typer.Option("--vram", min=1, help="GiB of the card, as if it were a smaller one")
    ] = None,
    variants: Annotated[
        str | None, typer.Option("--variants", help="some, such as flanlite,peft; left out: all that can run here")
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.01, help="the longest that one measurement may take")
    ] = 8,
    data: Annotated[
        Path | None, typer.Option("--data", help="training set whose lengths to take; left out: public ones")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="folder of the results; what it holds is not measured again; left out: in bench/"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print it for other programs")] = False,
    debug: Debug = False,
) -> None:
    """Measure a tune's speed and memory, beside unsloth and peft. On random weights; it takes some minutes a variant.

    Examples: `flanlite bench --base tiny --max-tokens 512` and `flanlite bench --vram 24`
    """
    from flanlite import bench as stage
    from flanlite.benchmark import table

    named = tuple(name.strip() for name in (variants or "").split(",") if name.strip())
    batch_tokens = max(max_tokens, recipe_for(None, (), {"base": base})[0].batch_tokens)
    order = stage.Order(base, max_tokens, batch_tokens, vram, named, 60 * minutes, data)
    if as_json:
        typer.echo(table.as_json(stage.bench(order, out, lambda line: typer.echo(line, err=True))))
    else:
        results = stage.bench(order, out)
        table.show(results, results.folder / stage.SPEEDS)


@app.command()
def merge(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="a run's folder or name; left out: the newest")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="folder for the merged model")] = Path("merged"),
    onto: Annotated[
        Onto, typer.Option("--onto", help="the base's 16-bit weights, or those that training saw")
    ] = "base",
    dtype: Annotated[Half | None, typer.Option("--dtype", help="of the merged model; left out: the base's own")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="compare the merge with base and adapter")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --out")] = False,
    debug: Debug = False,
) -> None:
    """Merge a run's adapter into its base, and check the result. It becomes a 16-bit model folder.

    Example: `flanlite merge --out my_agent`
    """
    from flanlite.merge import merge_run

    if not merge_run(run, out, onto=onto, dtype=dtype, check=check, overwrite=overwrite):
        raise typer.Exit(1)


@app.command()
def chat(
    source: Annotated[
        str | None,
        typer.Argument(metavar="RUN|MODEL", help="run, merged model or base; left out: the newest run"),
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="address of an OpenAI-compatible server")] = None,
    model: Annotated[str | None, typer.Option("--model", help="which of the server's models")] = None,
    tool_style: ToolStyleOption = None,
    tools: Annotated[
        list[Path] | None, typer.Option("--tools", help="Python file whose functions become tools; may be repeated")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--folder", help="folder of texts that the agent may search")] = None,
    csv: Annotated[
        list[Path] | None, typer.Option("--csv", help="CSV file that the agent may query; may be repeated")
    ] = None,
    mcp: Annotated[
        list[str] | None,
        typer.Option("--mcp", help="command line or URL of a Model Context Protocol server; may be repeated"),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="ask base and tuned model side by side")] = False,
    terminal: Annotated[bool, typer.Option("--terminal", help="chat here, not in a browser")] = False,
    host: Annotated[str, typer.Option("--host", help="address to serve the page on")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="left out: a free one from 7860 on")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="a public link, through Gradio's servers")] = False,
    password: Annotated[str | None, typer.Option("--password", help="asked of everybody who opens the page")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the page in a browser")] = True,
    debug: Debug = False,
) -> None:
    """Chat with an agent. Watch it think, call its tools and answer.

    Examples: `flanlite chat` and `flanlite chat my_agent --tools my_tools.py --csv sales.csv`
    """
    from flanlite.chat import Address, Given
    from flanlite.chat import chat as start

    start(
        source,
        endpoint=endpoint,
        model=model,
        tool_style=tool_style,
        given=Given(tools or (), folder, csv or (), mcp or ()),
        compare=compare,
        in_terminal=terminal,
        address=Address(host, port, share, password, browser),
    )


@app.command("eval")
def evaluate(
    source: ChatSource = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="some of t-eval,agent-h,sample,general; left out: what fits the model"),
    ] = None,
    against: Annotated[
        Literal["base", "none"], typer.Option("--against", help="ask a run's base too, and compare")
    ] = "base",
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="address of an OpenAI-compatible server")] = None,
    model: Annotated[str | None, typer.Option("--model", help="which of the server's models")] = None,
    tool_style: ToolStyleOption = None,
    teval: Annotated[
        list[str] | None, typer.Option("--t-eval", help="T-Eval's question files, a folder, or a name on the hub")
    ] = None,
    variant: Annotated[
        Variant, typer.Option("--variant", help="of T-Eval's questions, where there are several")
    ] = "whole",
    glaive: Annotated[
        str | None, typer.Option("--glaive", help="rows in glaive's form for agent-h: a file, or a name on the hub")
    ] = None,
    general: Annotated[str | None, typer.Option("--general", help="general chat for the perplexity: a file")] = None,
    embedder: Annotated[
        str | None, typer.Option("--embedder", help="sentence embeddings for T-Eval: a hub name or a folder")
    ] = None,
    lm_eval: Annotated[
        str | None, typer.Option("--lm-eval", help="tasks of lm-evaluation-harness, such as mmlu,gsm8k,humaneval")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="a quick look: so many of each T-Eval file, of agent-h, of each kind in sample"
        ),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="score saved T-Eval predictions, without a model")
    ] = None,
    save_predictions: Annotated[
        Path | None, typer.Option("--save-predictions", help="folder for T-Eval predictions in T-Eval's own form")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="left out: eval/ in the run's folder, or here")] = None,
    debug: Debug = False,
) -> None:
    """Evaluate a model against its base. Does it use tools better, invent fewer calls, and has it lost anything?

    Examples: `flanlite eval` and `flanlite eval my_agent --suite agent-h --glaive rows.json`
    """
    from flanlite import evaluate as stage

    options = stage.Options(
        suites=stage.suites_named(suite),
        variant=variant,
        general=general,
        embedder=embedder,
        harness=stage.names_in(lm_eval),
        limit=limit,
        save_predictions=save_predictions,
        out=out,
        **_given(teval=teval, glaive=glaive),
    )
    given = {"RUN|MODEL": source, "--endpoint": endpoint, "--predictions": predictions}
    if sum(value is not None for value in given.values()) > 1 or (model and not endpoint):
        raise FlanliteError(
            "Evaluate one thing: a run or model, --endpoint, or --predictions.", "--model is a server's."
        )
    if predictions is not None:
        stage.evaluate_predictions(predictions, options)
    elif endpoint is not None:
        stage.evaluate_endpoint(endpoint, model, options, tool_style=tool_style)
    else:
        stage.evaluate(source, options, tool_style=tool_style, against_base=against == "base")


@app.command()
def bases() -> None:
    """List the base models that have a name here, with their sizes.

    Example: `flanlite bases`
    """
    from flanlite.bases import BASES, resolve
    from flanlite.terminal import console, table_of_bases

    console.print(table_of_bases([resolve(name) for name in BASES]))


@app.command()
def doctor(debug: Debug = False) -> None:
    """Check whether this machine is ready. Each line is ok or says what to do.

    Example: `flanlite doctor`
    """
    from flanlite.doctor import run

    raise typer.Exit(run())


recipes = typer.Typer(help="List, show and copy the recipes that come with flanlite.", no_args_is_help=True)
app.add_typer(recipes, name="recipes")
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="its name", show_default=False)]


@recipes.command("list")
def list_recipes(debug: Debug = False) -> None:
    """List the shipped recipes.

    Example: `flanlite recipes list`
    """
    from flanlite.recipe import shipped_recipes
    from flanlite.terminal import say

    for name, file in shipped_recipes().items():
        first = file.read_text(encoding="utf-8").splitlines()[0]
        say(f"{name:<10} {first.lstrip('# ')}")


@recipes.command("show")
def show_recipe(recipe: RecipeName, debug: Debug = False) -> None:
    """Print a shipped recipe.

    Example: `flanlite recipes show agent-flan`
    """
    from flanlite.recipe import find_recipe

    typer.echo(find_recipe(recipe).read_text(encoding="utf-8"), nl=False)


@recipes.command("copy")
def copy_recipe(
    recipe: RecipeName,
    file: Annotated[Path | None, typer.Argument(help="where to; left out: RECIPE.yaml here")] = None,
    debug: Debug = False,
) -> None:
    """Copy a shipped recipe, to be edited.

    Example: `flanlite recipes copy agent-flan mine.yaml`
    """
    from flanlite.recipe import find_recipe
    from flanlite.terminal import say

    content = find_recipe(recipe).read_text(encoding="utf-8")
    file = file or Path(f"{recipe}.yaml")
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(content)
    except FileExistsError:
        raise FlanliteError(f"{file} is there already.", "Name another file.") from None
    except OSError as error:
        raise FlanliteError(f"{file} cannot be written: {error.strerror}.") from error
    say(f"Wrote {file}. Tune with it: flanlite tune {file}")
