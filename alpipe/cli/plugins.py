"""Commands about plug-ins: which there are, and what one of them is and costs."""

from __future__ import annotations

from typing import Any

import typer

app = typer.Typer(
    help=(
        "Learners, strategies, batch partners, annotators and formats: list them, or show one."
        " Example: alpipe plugins show unetpp"
    ),
    invoke_without_command=True,
)


@app.callback()
def plugins(
    context: typer.Context, json: bool = typer.Option(False, "--json", help="Print JSON, for scripts.")
) -> None:
    """List learners, strategies, batch partners, annotators and formats, built in or of other packages; `show` one.

    Example: alpipe plugins show detector
    """
    if context.invoked_subcommand is not None:
        return
    from alpipe.cli.display import as_json, table
    from alpipe.errors import PluginError
    from alpipe.plugins import Kind, advice, available, find, missing

    rows = []
    for kind in Kind:
        for plugin in available(kind).values():
            try:
                module = find(kind, plugin.name)
                tasks, about = ", ".join(sorted(module.TASKS)), _first_line(module)
                if absent := missing(module):
                    about = f"{advice(absent)} ({about})"
            except PluginError as error:
                tasks, about = "–", str(error)
            rows.append({"kind": kind.noun, "name": plugin.name, "tasks": tasks, "from": plugin.origin, "about": about})
    (as_json if json else table)(rows)


@app.command()
def show(
    name: str = typer.Argument(help="Name of a learner, strategy, partner, annotator or format."),
    size: str = typer.Option("256", help="Input of a learner's network, in pixels: a side, or WIDTHxHEIGHT."),
    classes: int = typer.Option(3, min=1, help="Classes of a learner's network."),
    option: list[str] = typer.Option(
        [], "-o", "--option", metavar="NAME=VALUE", help="An option, as in alpipe.yaml; may be given several times."
    ),
    json: bool = typer.Option(False, "--json", help="Print JSON, for scripts."),
) -> None:
    """Show a plug-in's options, and of a learner's network the parameters, multiply-adds and memory.

    Example: alpipe plugins show unetpp --size 128 -o conv=separable
    """
    from alpipe import plugins
    from alpipe.cli.display import as_json, say, table
    from alpipe.errors import ConfigError
    from alpipe.plugins import Kind, available

    modules = {kind: plugins.find(kind, name) for kind in Kind if name in available(kind)}
    if not modules:
        plugins.nowhere(name)
    if option and not any(hasattr(module, "Options") for module in modules.values()):
        raise ConfigError(f"{name!r} has no options")
    shown: list[dict[str, Any]] = []
    for kind, module in modules.items():
        values = plugins.options(kind, name, module, _values(option)) if hasattr(module, "Options") else None
        absent = plugins.missing(module)
        shown.append(
            {
                "kind": kind.noun,
                "name": name,
                "tasks": sorted(module.TASKS),
                "about": _first_line(module),
                "options": [] if values is None else _options(values),
                "cost": _cost(module, values, classes, size) if kind is Kind.LEARNER and not absent else None,
                "missing": plugins.advice(absent) if absent else None,
            }
        )
    if json:
        as_json(shown)
        return
    for one in shown:
        say(f"{one['kind']} {one['name']} ({', '.join(one['tasks'])}): {one['about']}")
        if one["options"]:
            table(one["options"])
        if one["cost"] is not None:
            table([{"of one image": what, "": value} for what, value in one["cost"].items()])
        if one["missing"]:
            say(f"{name} {one['missing']}")


def _first_line(module: Any) -> str:
    lines = (module.__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


def _values(given: list[str]) -> dict[str, Any]:
    """Options as YAML reads them: numbers are numbers, lists are lists."""
    import yaml

    from alpipe.errors import ConfigError

    values = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise ConfigError(f"--option {one!r} is not NAME=VALUE, as in conv=separable")
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--option {one!r}: the value is not YAML") from error
    return values


def _options(values: Any) -> list[dict[str, Any]]:
    fields = type(values).model_fields
    return [
        {"option": name, "value": str(value), "about": fields[name].description or ""}
        for name, value in values.model_dump(mode="json").items()
    ]


def _cost(module: Any, options: Any, classes: int, size: str) -> dict[str, str] | None:
    """The table of costs, or None where the learner does not show its network."""
    if not hasattr(module, "network"):
        return None
    from alpipe.errors import ConfigError
    from alpipe.learners.nets.cost import cost

    width, height = _padded(module, options, classes, *_sides(size))
    net = module.network(options, classes, max(width, height))
    try:
        made = cost(net, height, width)
    except RuntimeError as error:
        raise ConfigError(f"the network takes no input of {width}×{height} pixels; try a larger one") from error
    return {
        "input": f"{width}×{height} pixels, {classes} classes",
        "parameters": f"{made.parameters:,}",
        "multiply-adds, the whole network": f"{made.multiply_adds:,}",
        "memory of the weights": _bytes(made.memory.weights),
        "memory of a training step, layer outputs": _bytes(made.memory.outputs),
        "largest layer output": _bytes(made.memory.largest),
    }


def _padded(module: Any, options: Any, classes: int, width: int, height: int) -> tuple[int, int]:
    """The sides of the network's input for such an image, which is padded."""
    if not hasattr(module, "DESIGN"):
        return width, height
    from alpipe.learners.training.data import round_up
    from alpipe.learners.training.learner import Setting

    names = tuple(str(number) for number in range(classes))
    multiple = module.DESIGN.multiple(Setting(options, names, max(width, height)))
    return round_up(width, multiple), round_up(height, multiple)


def _sides(size: str) -> tuple[int, int]:
    from alpipe.errors import ConfigError

    parts = size.lower().replace("×", "x").split("x")
    if len(parts) not in (1, 2) or not all(part.isdigit() and 0 < int(part) <= 65536 for part in parts):
        raise ConfigError(f"--size {size!r} is not a side in pixels or WIDTHxHEIGHT, as in 256 or 640x480")
    return int(parts[0]), int(parts[-1])


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
