"""What a value of the configuration may be, beyond its type. It refuses values and changes none."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from legible.fingerprint import ROOT
from legible.models.spec import spec_of
from legible.names import BASE, CEILINGS, SCALE
from legible.wording import named, shown, unknown_key, unseen

if TYPE_CHECKING:
    from pydantic import BaseModel

    from legible.config.data import Data
    from legible.config.experiment import Config

NAME = r"^[a-z][a-z0-9_]*$"
MOST = 2**31 - 1
NAME_LENGTH = 64  # several names make one file name, of 255 bytes
TEXT_LENGTH = 100_000
MOST_RUNS = 100_000
DEPTH = 30
SIZE = 300_000  # of a configuration: entries and characters
TALLEST = 4  # times the height of a picture
LARGEST_LINE = 8192**2  # pixels
WILDCARD = re.compile(r"\{\s*\w+")  # how it begins, in any text that becomes a parameter of a rule
TAKEN = ("cache", "nano_models", "prompts")  # folders below results/ that are no experiment's
OF_NO_REGIME = ("train_nano_part", "install_nano", "nano", "fetch_prompts")  # rules that regimes do without
# Keys of the auxiliary loss → the balances that listen to them.
OF_BALANCE = {
    "lambda_end": ("linear", "cosine"),
    "target_ratio": ("gradient_norm",),
    "smoothing": ("gradient_norm",),
    "lambda_bounds": ("gradient_norm", "uncertainty"),
}


def a_name(text: str) -> str:
    """A name that becomes part of file names and rules."""
    if not re.fullmatch(NAME[1:-1], text) or len(text) > NAME_LENGTH:
        raise ValueError(
            f"a name has small letters (a to z), digits and '_' only, a letter first, and at most {NAME_LENGTH} "
            f"characters; got {shown(text)}"
        )
    return text


def countable(number: int) -> int:
    """A number that every part of the program can hold."""
    if number > MOST:
        raise ValueError(f"it must be at most {MOST}, got {shown(number)}")
    return number


def two(values: Any) -> Any:
    """A pair, as [2, 6]."""
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise ValueError(f"a list of two is needed, such as [a, b], got {shown(values)}")
    return values


def matching(pattern: str, wanted: str) -> Callable[[str], str]:
    """A check that a whole text looks like `pattern`; `wanted` says so in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{wanted}; got {shown(text)}")
        return text

    return check


def known_keys(kind: "type[BaseModel]", raw: Any) -> Any:
    """A section as it was given, if it has all of its keys."""
    if not isinstance(raw, Mapping):
        return raw
    fields = kind.model_fields
    names = [field.alias or name for name, field in fields.items()]
    own_names = {name for name, field in fields.items() if field.alias and field.alias not in raw}
    for key in raw:
        if key not in names and key not in own_names:
            homes = [
                f"{name}.{key}"
                for name, field in fields.items()
                if isinstance(key, str) and key in getattr(field.annotation, "model_fields", {})
            ]
            home = next((home for home in homes if home.startswith("training.")), homes[0] if homes else "")
            said = unknown_key(key, names, home)
            raise PydanticCustomError("unknown_key", "{said}", {"said": said})
    return raw


def readable(raw: Any) -> Any:
    """A configuration as it was given, if all of its text can be seen, nothing holds itself, and it has an end."""
    todo: list[tuple[Any, tuple, tuple[int, ...]]] = [(raw, (), ())]  # what is looked at next, where, and within what
    size = 0
    while todo:
        node, where, above = todo.pop()
        size += len(node) if isinstance(node, str | Mapping | list | tuple) else 0
        # A few lines of aliases in aliases stand for billions of entries, and everything after this looks at each.
        if size > SIZE:
            raise ValueError(
                f"{named(where[:3])}: here the configuration has more than {SIZE} entries and characters, with what "
                "each alias (*) stands for; no experiment needs that many"
            )
        if isinstance(node, str):
            _readable_text(node, f"{named(where)}: it")
        if isinstance(node, bytes):
            raise ValueError(f"{named(where)}: binary data (!!binary) are not allowed; write it as text")
        if isinstance(node, set):
            raise ValueError(f"{named(where)}: a set (!!set) has no order; write a list, such as [a, b]")
        if not isinstance(node, Mapping | list | tuple):
            continue
        if id(node) in above:
            raise ValueError(f"{named(where)}: it holds itself; take the alias (*) out of the YAML")
        if len(above) > DEPTH:
            raise ValueError(f"{named(where[:3])}: nested more than {DEPTH} levels deep; no key needs that many")
        entries = list(node.items()) if isinstance(node, Mapping) else list(enumerate(node))
        for key, _ in entries:
            _readable_key(key, where)
        todo += [(value, (*where, key), (*above, id(node))) for key, value in reversed(entries)]
    return raw


def _readable_key(key: Any, where: tuple) -> None:
    """A key must be text; a whole number is left to its section, which says more of it."""
    if isinstance(key, str):
        _readable_text(key, f"{named(where)}: a key" if where else "a key of the top level")
    elif isinstance(key, bool) or not isinstance(key, int):
        name = "null" if key is None else "of binary data" if isinstance(key, bytes) else shown(key)
        raise ValueError(f"{named(where) or 'top level'}: the key {name} is no text; put it in quotation marks")


def _readable_text(text: str, where: str) -> None:
    if found := unseen(text):
        raise ValueError(f"{where} {found}")
    if found := WILDCARD.search(text):
        raise ValueError(f"{where} holds {shown(found[0])}…, which Snakemake would replace; write it without the brace")
    if len(text) > TEXT_LENGTH:
        raise ValueError(f"{where} has {len(text)} characters; at most {TEXT_LENGTH} are allowed")


def drawable(config: "Config") -> None:
    """Fonts and data that something can be drawn with."""
    fonts, data = config.fonts, config.data
    if both := [name for name in fonts.train if name in fonts.held_out]:
        raise ValueError(f"fonts.train: '{both[0]}' is in fonts.held_out as well; a held-out font is never trained on")
    if not (fonts.bundled or fonts.system or fonts.folders):
        raise ValueError("fonts: there is no place to look for fonts; give folders, or set bundled or system to true")
    if 2 * data.margin >= min(data.height, data.width):
        raise ValueError(f"data.margin: {data.margin} leaves no room on {data.width} × {data.height} pixels; lower it")
    if config.calibration:
        of_use(config.calibration.font_size, data, "calibration.font_size")


def of_use(size: int, data: "Data", name: str) -> None:
    """A font size at which a line may fit on the picture, and can be drawn at all to see whether it does."""
    if size > TALLEST * data.height:
        raise ValueError(
            f"{name}: {size} pixels are more than {TALLEST} times the height of the picture ({data.height}), on which "
            "no line of this size fits; lower it"
        )
    if data.length[1] * size**2 > LARGEST_LINE:
        raise ValueError(
            f"{name}: a line of {data.length[1]} characters (data.length) at {size} pixels is larger than the largest "
            "picture; lower one of them"
        )


def file_name(text: str) -> str:
    """The name of a file that lies in a folder which another key names."""
    if not text or text in (".", "..") or "/" in text or "\\" in text:
        raise ValueError(f"the name of a file in the folder `path` is needed, without any '/'; got {shown(text)}")
    return text


@cache
def rule_names() -> list[str]:
    """Names of the workflow's rules."""
    files = [*ROOT.glob("Snakefile"), *sorted((ROOT / "rules").glob("*.smk"))]
    begins = re.compile(r"^(?:rule|use rule \w+ as) (\w+)", re.MULTILINE)
    return [name for file in files for name in begins.findall(file.read_text(encoding="utf-8"))]


def named_apart(config: "Config") -> None:
    """Names that nothing else has."""
    for name in (BASE, *CEILINGS, SCALE):
        if name in config.arms:
            raise ValueError(f"arms.{name}: this name is taken by what arms are compared with; choose another one")
    if (runs := len(config.arms) * len(config.seeds)) > MOST_RUNS:
        raise ValueError(
            f"seeds: {len(config.arms)} arms with each make {runs} trainings; at most {MOST_RUNS} are allowed"
        )
    pairs = [frozenset(pair) for pair in config.contrasts]
    if len(set(pairs)) < len(pairs):
        raise ValueError("contrasts: every pair of arms may be given once only, whichever comes first")
    rules = set(rule_names()) if config.regimes else set()
    for name in config.regimes:
        own = [f"{name}_{rule}" for rule in rule_names() if rule not in OF_NO_REGIME]  # as the Snakefile calls them
        if both := [rule for rule in own if rule in rules]:
            what = f"its jobs would be called {both[0]}, as others are already"
            raise ValueError(f"regimes.{name}: {what}; choose another name for this regime")
        rules |= set(own)


def trainable(config: "Config") -> None:
    """Parts that the family has."""
    known = ("denoiser", *spec_of(config.model.family).text_encoders)
    for place, training in [("training", config.training), *((f"arms.{n}", config.arm(n)) for n in config.arms)]:
        if unknown := [part for part in training.parts if part not in known]:
            what = f"{shown(unknown[0])} is no part of {config.model.family}"
            raise ValueError(f"{place}.parts: {what}; allowed are {', '.join(known)}")


def listened_to(config: "Config", name: str) -> None:
    """Keys of an arm that its training listens to."""
    training = config.arm(name)
    if training.method == "lora" and "modules" in config.arms[name] and training.modules is not None:
        raise ValueError(f"arms.{name}.modules: they belong to method full; with lora set lora.targets")
    own = config.arms[name].get("aux")
    for key, balances in OF_BALANCE.items():
        if isinstance(own, Mapping) and key in own and training.aux.balance not in balances:
            raise ValueError(
                f"arms.{name}.aux.{key}: it belongs to balance {' or '.join(balances)}, not to "
                f"{training.aux.balance}; leave it out, or set balance"
            )
