"""`alpipe plugins`: what there is, and what one of them is and costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from alpipe import plugins
from alpipe.plugins import Kind
from tests.conftest import Ran

Alpipe = Callable[..., Ran]

WITH_NETWORK = ("cnn", "detector", "sliding", "unetpp")


def test_every_plugin_is_listed_with_its_kind(alpipe: Alpipe) -> None:
    ran = alpipe("plugins", "--json")
    listed = {(row["kind"], row["name"]) for row in json.loads(ran.out)}
    assert ran.status == 0
    assert listed == {(kind.noun, name) for kind in Kind for name in plugins.available(kind)}


@pytest.mark.parametrize("name", WITH_NETWORK)
def test_a_learner_shows_its_options_and_what_its_network_costs(alpipe: Alpipe, name: str) -> None:
    ran = alpipe("plugins", "show", name, "--size", "96", "--json")
    (shown,) = json.loads(ran.out)
    options = plugins.load(Kind.LEARNER, name).Options.model_fields
    assert [row["option"] for row in shown["options"]] == list(options)
    assert shown["cost"]["input"] == "96×96 pixels, 3 classes"
    for what in ("parameters", "multiply-adds"):
        assert int(shown["cost"][what].replace(",", "")) > 1000


def test_fewer_weights_are_shown_for_separable_convolutions(alpipe: Alpipe) -> None:
    def parameters(*options: str) -> int:
        (shown,) = json.loads(alpipe("plugins", "show", "unetpp", "--size", "64", "--json", *options).out)
        return int(shown["cost"]["parameters"].replace(",", ""))

    standard, group, separable = (parameters(), *(parameters("-o", f"conv={kind}") for kind in ("group", "separable")))
    assert separable < group < standard


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("unetp",), "unknown plug-in 'unetp'; did you mean unetpp"),
        (("unetpp", "--size", "12x"), "is not a side in pixels or WIDTHxHEIGHT"),
        (("unetpp", "-o", "conv"), "is not NAME=VALUE"),
        (("unetpp", "-o", "konv=separable"), "did you mean 'conv'"),
        (("unetpp", "-o", "conv=round"), "conv"),
        (("unetpp", "--size", "100"), "takes no input of 100×100 pixels"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(alpipe: Alpipe, arguments: tuple[Any, ...], reason: str) -> None:
    ran = alpipe("plugins", "show", *arguments)
    assert ran.status == 1
    assert reason in ran.err
    assert len(ran.err.strip().splitlines()) == 1
