"""Plug-ins are found by name, and what is wrong with them is said in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from alpipe import config as configuration
from alpipe import plugins
from alpipe.errors import ConfigError, PluginError
from alpipe.plugins import Kind
from alpipe.project import check_plugins
from alpipe.types import Task

MODULE = '''"""A strategy of a third party."""
from alpipe.protocols import PluginOptions
from alpipe.types import Task

TASKS = frozenset({Task.CLASSIFY})
NEEDS_EMBEDDINGS = False


class Options(PluginOptions):
    """One that must be given, one with a default."""

    speed: int
    temperature: float = 1.0


def build(options):
    return options
'''


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package installed beside alpipe: a module and the entry points that pip would write."""
    (tmp_path / "theirs.py").write_text(MODULE)
    info = tmp_path / "theirs_al-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs-al\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[alpipe.strategies]\nfastest = theirs\nattribute = theirs:Nothing\n"
        "gone = not_installed_at_all\nentropy = theirs\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.available.cache_clear()
    yield
    plugins.available.cache_clear()
    sys.modules.pop("theirs", None)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_module_of_a_room_is_a_plugin_with_what_its_kind_needs(kind):
    for name, found in plugins.available(kind).items():
        plugin = plugins.find(kind, name)
        assert (found.name, found.kind) == (name, kind)
        assert plugin.TASKS
        assert set(plugin.TASKS) <= set(Task)
        if kind is Kind.FORMAT:
            assert callable(plugin.read)
            assert callable(plugin.write)
        else:
            assert callable(plugin.build)
            assert issubclass(plugin.Options, plugins.load(Kind.STRATEGY, "random").Options.__base__)
        assert (kind is Kind.LEARNER) <= hasattr(plugin, "load")


def test_listing_imports_none_of_them():
    code = (
        "import sys; from alpipe import plugins\n"
        "for kind in plugins.Kind: plugins.available(kind)\n"
        "names = [p.module for kind in plugins.Kind for p in plugins.available(kind).values()]\n"
        "print([name for name in [*names, 'torch', 'label_studio_sdk', 'pandas'] if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(PluginError, match="unknown strategy 'entropie'; did you mean entropy"):
        plugins.load(Kind.STRATEGY, "entropie")
    with pytest.raises(PluginError, match=r"unknown strategy 'zzz'; known: .*entropy.*margin"):
        plugins.load(Kind.STRATEGY, "zzz")


@pytest.mark.usefixtures("third_party")
def test_a_package_of_a_third_party_joins_by_entry_point():
    found = plugins.available(Kind.STRATEGY)
    assert found["fastest"].origin == "theirs-al"
    assert plugins.load(Kind.STRATEGY, "fastest", Task.CLASSIFY).build(3) == 3


@pytest.mark.usefixtures("third_party")
def test_a_built_in_one_is_not_replaced_by_one_of_the_same_name():
    assert plugins.available(Kind.STRATEGY)["entropy"].origin == "built in"


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize("name", ["gone", "attribute"])
def test_one_that_cannot_be_loaded_says_whose_it_is(name):
    with pytest.raises(PluginError, match=rf"strategy '{name}' \(theirs-al\) cannot be loaded"):
        plugins.load(Kind.STRATEGY, name)


@pytest.mark.usefixtures("third_party")
def test_one_for_another_task_names_those_that_fit():
    with pytest.raises(PluginError, match=r"'fastest' is for classify, not for detect; use .*entropy") as caught:
        plugins.load(Kind.STRATEGY, "fastest", Task.DETECT)
    assert "gone" not in str(caught.value)


@pytest.mark.usefixtures("third_party")
def test_all_faults_of_options_stand_in_one_line():
    plugin = plugins.load(Kind.STRATEGY, "fastest")
    assert plugins.options(Kind.STRATEGY, "fastest", plugin, {"speed": 3}).temperature == 1.0
    with pytest.raises(ConfigError) as caught:
        plugins.options(Kind.STRATEGY, "fastest", plugin, {"temperatur": 2, "temperature": "hot"})
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("strategy 'fastest': ")
    for part in ("unknown option 'temperatur' (did you mean 'temperature'?)", "given: 'hot'", "speed: Field required"):
        assert part in message


@pytest.mark.usefixtures("third_party")
def test_options_that_are_not_words_are_refused_too():
    plugin = plugins.load(Kind.STRATEGY, "fastest")
    with pytest.raises(ConfigError, match="strategy 'fastest'"):
        plugins.options(Kind.STRATEGY, "fastest", plugin, {3: 4})


@pytest.mark.parametrize(
    ("learner", "fine"),
    [
        ({"name": "cnn"}, False),
        ({"name": "cnn", "samples": 20}, True),
        ({"name": "cnn", "samples": 1}, False),
    ],
)
def test_an_ensemble_is_asked_for_before_the_first_training(learner, fine):
    values = {"name": "test", "task": "classify", "labels": ["a", "b"], "learner": learner, "strategy": "disagreement"}
    config = configuration.parse(values, "test")
    if fine:
        check_plugins(config)
        return
    with pytest.raises(ConfigError, match="learner 'cnn' has none: set its option samples to 20"):
        check_plugins(config)
