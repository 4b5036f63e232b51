"""The configuration is checked once, and every fault is said."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alpipe import config as configuration
from alpipe.config import Config
from alpipe.errors import ConfigError
from alpipe.types import Task

CONFIGS = Path(__file__).parents[1] / "configs"


def made(**values: object) -> Config:
    return configuration.parse({"name": "cells", "task": "detect", "labels": ["a", "b"], **values}, "alpipe.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_each_example_configuration_is_valid(path: Path) -> None:
    assert configuration.read(path).task in Task


def test_the_commented_example_states_the_true_defaults() -> None:
    example = configuration.read(CONFIGS / "detect.yaml")
    assert example == configuration.parse(
        {"name": "cells", "task": "detect", "labels": ["RBC", "WBC", "Platelets"]}, "defaults"
    )


def test_the_commented_example_has_every_setting() -> None:
    text = (CONFIGS / "detect.yaml").read_text()
    assert all(f"{name}:" in text for name in Config.model_fields)


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_images_and_masks_are_chosen_by_margin_and_herding_unless_a_strategy_is_named(task: str) -> None:
    plain = {"name": "signs", "task": task, "labels": ["a", "b"]}
    own = configuration.parse(plain | {"batch_with": {"near_duplicates": 4}}, "own")
    assert (own.strategy.name, own.batch_with) == ("margin", {"partner": "herding", "near_duplicates": 4})
    assert configuration.parse(plain | {"batch_with": {"partner": "top"}}, "other partner").batch_with == {
        "partner": "top"
    }
    assert configuration.parse(plain | {"strategy": "badge"}, "named").batch_with == {}
    assert configuration.parse(yaml.safe_load(configuration.text(own)), "written").batch_with == own.batch_with


def test_each_task_has_a_default_learner() -> None:
    assert {made(task=str(task)).learner.name for task in Task} == {"cnn", "detector", "unetpp"}


def test_options_stand_beside_the_name_of_a_plug_in() -> None:
    assert made(learner={"name": "detector", "image_size": 320}).learner.options == {"image_size": 320}


def test_a_configuration_with_five_faults_reports_all_five() -> None:
    with pytest.raises(ConfigError) as caught:
        made(bach=3, seed=-1, wait_for=2, device="gpu", labels=["a", "a"])
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in ("'bach' (did you mean 'batch'?)", "seed", "wait_for", "device", "labels"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: [", "not valid YAML"),
        ("- a\n- b", "expected 'name: value' lines"),
        ("", "expected 'name: value' lines"),
        ("1: 2", "alpipe.yaml"),
        ("name: cells\ntask: detection\nlabels: [a]", "task"),
        ("name: cells\ntask: detect\nlabels: []", "labels"),
        ("name: cells\ntask: detect\nlabels: [a, ' b']", "blank"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "alpipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        configuration.read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="alpipe init"):
        configuration.read(tmp_path / "alpipe.yaml")


@given(
    task=st.sampled_from(list(Task)),
    labels=st.lists(st.text("abcé日 '\":#-", min_size=1).map(str.strip).filter(bool), min_size=1, unique=True),
    batch=st.integers(1, 10_000),
    share=st.floats(0, 0.99),
)
def test_a_configuration_survives_being_written_and_read(
    task: Task, labels: list[str], batch: int, share: float
) -> None:
    config = made(task=str(task), labels=labels, batch=batch, holdout={"share": share})
    assert configuration.parse(yaml.safe_load(configuration.text(config)), "again") == config
