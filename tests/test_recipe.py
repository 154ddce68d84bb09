"""Settings are declared once, read from YAML and `key=value`, and a mistake is named with the nearest key."""

from __future__ import annotations

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flanlite.errors import FlanliteError
from flanlite.planning.setup import Setup
from flanlite.recipe import ALL_LAYERS, Recipe, find_recipe, load_recipe, recipe_for, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_says_first_what_it_is_for(name):
    recipe = load_recipe(name)
    assert recipe.batch_tokens <= 2**15
    assert find_recipe(name).read_text(encoding="utf-8").startswith("# ")


def test_every_setting_has_a_meaning():
    assert all(setting.metadata["meaning"] for setting in dataclasses.fields(Recipe))


@given(
    rate=st.floats(1e-7, 1),
    epochs=st.floats(0.1, 9),
    data=st.lists(st.text(min_size=1), max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_recipe_reads_back_as_it_was_written(rate, epochs, data, seed):
    recipe = Recipe(learning_rate=rate, epochs=epochs, data=tuple(data), seed=seed)
    assert Recipe().with_settings(yaml.safe_load(recipe.as_yaml()), "it") == recipe


def test_yaml_then_pairs_then_options_decide_in_this_order(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 2\nlearning_rate: 1e-5\nbase: tiny\n")
    recipe = load_recipe(str(file), ["epochs=3", "data=a.jsonl, b.jsonl"], {"base": "qwen3-0.6b"})
    assert (recipe.epochs, recipe.learning_rate, recipe.base) == (3.0, 1e-5, "qwen3-0.6b")
    assert recipe.data == ("a.jsonl", "b.jsonl")


@pytest.mark.parametrize(
    ("pair", "message", "hint"),
    [
        ("epcohs=2", "sets 'epcohs', which is no setting", "Did you mean epochs?"),
        ("epochs=two", "sets epochs to 'two', which should be a number", ""),
        ("seed=1.5", "should be a whole number", ""),
        ("offload=perhaps", "should be true or false or auto", ""),
        ("kept_layers=some", "should be a whole number or auto", ""),
        ("kept_layers=-1", "should be at least 0", ""),
        ("gradient_checkpointing=true", "sets 'gradient_checkpointing', which is no setting", ""),
        ("backend=jax", "should be one of auto, unsloth, peft", ""),
        ("epochs", "'epochs' is no setting", "key=value"),
        ("general_share=1", "should be below 1", ""),
        ("epochs=0", "should be above 0", ""),
        ("max_tokens=3", "should be at least 16", ""),
        ("max_tokens=long", "should be a whole number or auto", ""),
        ("max_tokens=20000", "rows of 20,000 tokens, and for steps of 16,384", "batch_tokens=20000"),
        ("batch_rows=8", "sets 'batch_rows', which is no setting", "Did you mean batch_tokens?"),
        ("optimizer=lion", "should be one of adamw_8bit, .* or auto", ""),
        ("max_tokens=inf", "should be a whole number", ""),
        ("learning_rate=inf", "should be a number", ""),
        ("epochs=nan", "should be a number", ""),
    ],
)
def test_a_mistake_is_one_sentence(pair, message, hint):
    with pytest.raises(FlanliteError, match=message) as caught:
        load_recipe(None, [pair])
    assert hint in caught.value.hint


def test_the_layout_of_a_step_is_left_to_the_plan_unless_it_is_set():
    with pytest.raises(ValueError, match="leaves its setup to the plan"):
        _ = Recipe().setup
    setup = Setup(micro_rows=2, kept_layers=0, offload=False)
    assert load_recipe(None, ["micro_rows=2", "kept_layers=0", "offload=no"]).setup == setup
    assert Recipe().with_setup(setup).setup == setup
    assert Recipe().with_settings(yaml.safe_load(Recipe().with_setup(setup).as_yaml()), "it").setup == setup


def test_the_length_of_the_rows_is_left_to_the_plan_unless_it_is_set():
    for ask in ("row_tokens", "batch_rows"):
        with pytest.raises(ValueError, match="leaves the length of its rows to the plan"):
            getattr(Recipe(), ask)
    recipe = load_recipe(None, ["max_tokens=1000"])
    assert (recipe.row_tokens, recipe.batch_rows) == (1000, 16)
    assert Recipe().with_rows_of(4096).batch_rows == 4


@pytest.mark.parametrize(
    ("context", "pairs", "tokens"),
    [
        (None, [], 2048),
        (1024, [], 1024),
        (40_960, [], 2048),
        (None, ["batch_tokens=256"], 256),
        (512, ["max_tokens=600"], 600),
    ],
)
def test_without_a_card_rows_are_as_long_as_base_and_step_allow(context, pairs, tokens):
    assert load_recipe(None, pairs).with_plain_rows(context).row_tokens == tokens


def test_micro_steps_that_do_not_divide_a_step_are_refused_as_soon_as_its_rows_are_known():
    with pytest.raises(FlanliteError, match="micro-steps of 3 rows, and a step of 16,384 tokens has 8 rows of 2,048"):
        load_recipe(None, ["micro_rows=3", "max_tokens=2048"])
    recipe = load_recipe(None, ["micro_rows=3"])
    with pytest.raises(FlanliteError, match="has 4 rows of 4,096"):
        recipe.with_rows_of(4096)


@pytest.mark.parametrize(("before", "now"), [("true", 0), ("false", ALL_LAYERS)])
def test_a_recipe_of_before_partial_checkpointing_means_what_it_said(tmp_path, before, now):
    file = tmp_path / "old.yaml"
    file.write_text(f"micro_rows: 2\ngradient_checkpointing: {before}\n")
    recipe = load_recipe(str(file))
    assert (recipe.micro_rows, recipe.kept_layers, recipe.offload) == (2, now, "auto")


@pytest.mark.parametrize(("lines", "tokens"), [("batch_rows: 8", 16_384), ("batch_rows: 4\nmax_tokens: 1024", 4096)])
def test_a_recipe_that_told_a_step_in_rows_means_as_many_tokens(tmp_path, lines, tokens):
    file = tmp_path / "old.yaml"
    file.write_text(lines)
    assert load_recipe(str(file)).batch_tokens == tokens


def test_tiny_has_a_recipe_of_its_own_and_any_other_base_the_default_settings():
    assert recipe_for(None, [], {"base": "tiny"}) == (load_recipe("tiny"), "Recipe tiny")
    assert recipe_for(None, ["base=tiny", "epochs=2"])[0].epochs == 2
    assert recipe_for(None, []) == (Recipe(), "The default settings")
    assert recipe_for("agent-flan", [], {"base": "tiny"})[1] == "Recipe agent-flan"


def test_the_recipe_of_the_paper_is_the_default_training_on_all_of_its_data():
    recipe = load_recipe("agent-flan")
    assert dataclasses.replace(recipe, general="auto", budget="auto") == Recipe()
    assert (recipe.chosen_general, recipe.chosen_budget) == (Recipe().chosen_general, "full")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(FlanliteError, match="no recipe 'agentflan'") as caught:
        load_recipe("agentflan")
    assert caught.value.hint == "Did you mean agent-flan?"


def test_a_setting_that_is_torn_from_its_value_is_no_recipe():
    with pytest.raises(FlanliteError, match="'epochs' is a setting without a value") as caught:
        load_recipe("epochs", ["=", "3"])
    assert caught.value.hint == "Write epochs=VALUE, without spaces."


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "base: tiny\nepochs: 2\nbase: qwen3-0.6b\n"])
def test_a_file_that_is_no_recipe_says_so(tmp_path, content):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(FlanliteError, match=r"broken\.yaml"):
        load_recipe(str(file))
