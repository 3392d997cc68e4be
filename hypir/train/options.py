"""The options of `python -m hypir train RECIPE`: the fields of a recipe, explained by tyro.

tyro gets a copy of the recipe's groups in which every option is text. It parses the options,
suggests the closest one for a typo, and writes the help. bounds.py reads the texts, because it
knows the allowed values of each field.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from .bounds import Help, hints, parse, range_of, show, unwrap
from .loss_list import option_of
from .recipe import GROUPS, LOSSES_OF, OWNERS, Recipe
from .schedule import Phases

GONE = {
    "decoder-gan": "is now called --autoencoder-gan",
    "logarithm": "is now part of the losses' names: give a weight to --log-mse, --log-latent or "
    "--log-energy (in other stages --encoder-log-latent, --restored-log-mse and so on) instead",
    "latent-energy": "was removed, because amounts of detail in latents caused coloured specks; "
    "compare them in pixels with --energy or --log-energy",
}
"""Options of earlier versions, with the message for each."""
CHANGED = {
    (
        "encoder-target",
        "latent",
    ): "--encoder-target latent is now --encoder-latent 1 --encoder-mse 0, "
    "or --encoder-log-latent 1 --encoder-mse 0",
    ("stages", "prior"): "the stage prior is now called diffusion; use --stages diffusion",
}
"""Values of earlier versions, with the message for each."""
RUN = ("stages", "out", "seed")
"""Fields of the recipe itself that are options."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """The parsed command."""

    recipe: Recipe
    dry_run: bool
    cpu: bool


def read_options(recipe: Recipe, words: Sequence[str], about: str = "") -> Asked:
    """The recipe with the options of a command.

    `about` is printed above the help.

    Raises:
        ValueError: in one sentence, for a value that an option cannot have, or an old option.
        SystemExit: after the help, or for an option that does not exist.
    """
    import tyro

    _refuse_old(words)
    read = tyro.cli(
        tyro.conf.OmitArgPrefixes[_mirror(recipe)],
        args=list(words),
        prog=f"python -m hypir train {recipe.name}",
        description=about,
    )
    values = {}
    for name, text in _texts(read, words):
        if isinstance(text, str):
            text = parse(option(name), text, field_hint(name))
        values[name] = text
    asked = recipe.changed(**values)
    _refuse_idle(asked, values)
    return Asked(asked, read.run.dry_run, read.run.cpu)


def option(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def field_hint(name: str) -> Any:
    """Declared type of a field."""
    owner = OWNERS[name]
    return hints(hints(Recipe)[owner] if owner else Recipe)[name]


@cache
def field_help(name: str) -> str:
    """Help of a field: the docstring below it, or its mark Help."""
    found = [m.text for m in unwrap(field_hint(name))[1] if isinstance(m, Help)]
    if found:
        return found[0]
    owner = OWNERS[name]
    return _docstrings(hints(Recipe)[owner] if owner else Recipe).get(name, "")


@cache
def _docstrings(cls: type) -> dict[str, str]:
    from docstring_parser import parse_from_object

    return {p.arg_name: " ".join(p.description.split()) for p in parse_from_object(cls).params}


def _mirror(recipe: Recipe) -> type:
    """A dataclass of dataclasses with the recipe's options as texts."""
    groups = {"run": (Recipe.__doc__, RUN)}
    groups |= {g: (hints(Recipe)[g].__doc__, hints(hints(Recipe)[g])) for g in GROUPS}
    fields = []
    for group, (about, names) in groups.items():
        members = [_member(recipe, name) for name in names]
        if group == "run":
            members += [
                _flag("dry_run", "Print the plan and stop."),
                _flag("cpu", "Train on the CPU even if there is a GPU."),
            ]
        kind = dataclasses.make_dataclass(group, members, kw_only=True)
        kind.__doc__ = about
        fields.append((group, kind, dataclasses.field(default_factory=kind)))
    return dataclasses.make_dataclass("Options", fields)


def _member(recipe: Recipe, name: str) -> tuple:
    import tyro
    from typing_extensions import Doc

    kind = unwrap(field_hint(name))[0]
    owner = OWNERS[name]
    value = getattr(getattr(recipe, owner) if owner else recipe, name)
    metavar = "PATH" if name == "data" else None
    shown = tyro.conf.arg(help_behavior_hint=_hint(recipe, name, value), metavar=metavar)

    def marked(kind: Any) -> Any:
        return Annotated[kind, Doc(field_help(name)), shown]

    if kind is bool:
        return name, marked(bool), dataclasses.field(default=value)
    if name == "data":
        many = tyro.conf.UseAppendAction[tuple[str, ...]]
        return name, marked(many), dataclasses.field(default=())
    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=_metavar(kind),
        instance_from_str=lambda texts: texts[0],
        is_instance=lambda _: True,
        str_from_instance=lambda text: [text or ""],
    )
    return name, Annotated[marked(object), spec], dataclasses.field(default=None)


def _flag(name: str, text: str) -> tuple:
    import tyro
    from typing_extensions import Doc

    shown = tyro.conf.arg(help_behavior_hint="(default: off)")
    flag = tyro.conf.FlagCreatePairsOff[Annotated[bool, Doc(text), shown]]
    return name, flag, dataclasses.field(default=False)


def _hint(recipe: Recipe, name: str, value: Any) -> str:
    """Bounds, choices and the recipe's default."""
    hint = field_hint(name)
    kind = unwrap(hint)[0]
    is_list = get_origin(kind) is tuple
    element = get_args(kind)[0] if is_list else hint
    parts = [range_of(element)]
    if is_list and get_origin(unwrap(element)[0]) is Literal:
        parts = [f"of {', '.join(get_args(unwrap(element)[0]))}"]
    parts.append(f"default: {show(value) or 'none'}")
    others = sum(name in getattr(step, "changes", ()) for step in recipe.chain)
    if others:
        parts.append(f"{others} step{'s have their' if others > 1 else ' has its'} own")
    return f"({'; '.join(p for p in parts if p)})"


def _metavar(kind: Any) -> str:
    if kind == Phases:
        return "STEPSxPICTURES@RATE,..."
    if get_origin(kind) is tuple:
        return "A,B" if get_args(kind)[-1] is not Ellipsis else "A,B,..."
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return {int: "INT", float: "NUMBER"}.get(kind, "TEXT")


def _texts(read: Any, words: Sequence[str]):
    """(field, text) of the options that were given; of a switch, its value."""
    given = {w.partition("=")[0].replace("_", "-") for w in words}
    for group in vars(read).values():
        for name, value in vars(group).items():
            if name not in OWNERS or value is None or value == ():
                continue
            if isinstance(value, bool):
                if given.isdisjoint({option(name), "--no-" + option(name)[2:]}):
                    continue
            yield name, value


def _refuse_old(words: Sequence[str]) -> None:
    for word, following in itertools.pairwise([*words, ""]):
        if not word.startswith("--"):
            continue
        name, _, value = word[2:].replace("_", "-").partition("=")
        plain = name.removeprefix("no-")
        if plain in GONE:
            raise ValueError(f"--{name} {GONE[plain]}")
        for part in (value or following).split(","):
            if (name, part) in CHANGED:
                raise ValueError(CHANGED[name, part])


def _refuse_idle(recipe: Recipe, given: dict[str, Any]) -> None:
    """Refuse loss weights of a stage that does not run: they would have no effect."""
    kinds = {step.name: getattr(step, "stage", "adversarial") for step in recipe.chain}
    running = {kinds.get(name, name) for name in recipe.stages}
    for name in given:
        for stage, groups in LOSSES_OF.items():
            if OWNERS[name] not in groups or stage in running:
                continue
            others = [option(option_of(s, name)) for s in running if option_of(s, name) in OWNERS]
            hint = f"; the weight there is {' or '.join(others)}" if others else ""
            raise ValueError(
                f"{option(name)} belongs to the {stage} stage, which is not among --stages "
                f"{show(recipe.stages)}{hint}"
            )
