"""Numbers and lists as sentences and tables write them."""

import html
from collections.abc import Sequence

import pandas as pd

from legible.figures.labels import signed


def listed(names: Sequence[str]) -> str:
    """Names as "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def escaped(text: str) -> str:
    """Text out of data or of a configuration for a Markdown page, in which it would be taken for HTML otherwise."""
    return html.escape(text, quote=False)


def counted(seeds: int) -> str:
    """A number of training seeds, in words where it is small."""
    number = {1: "one", 2: "two"}.get(seeds, str(seeds))
    return f"{number} training seed{'' if seeds == 1 else 's'}"


def p_text(value: float) -> str:
    """A p-value, two digits."""
    return "–" if pd.isna(value) else "<0.0001" if value < 1e-4 else f"{value:.2g}"


def percent(share: float) -> str:
    """A relative change with its sign, one decimal."""
    return "–" if pd.isna(share) else f"{100 * share:+.1f} %".replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval, three decimals."""
    return f"{value:.3f}" + ("" if pd.isna(low) or pd.isna(high) else f" [{low:.3f}, {high:.3f}]")


def change(value: float, low: float, high: float) -> str:
    """A difference with its interval, with signs; a dash where there is none."""
    bounds = "" if pd.isna(low) or pd.isna(high) else f" [{signed(low)}, {signed(high)}]"
    return signed(value) + bounds


def with_delta(value: float, delta: float, low: float, high: float) -> str:
    """A value and its difference to the control with its interval; the value alone where there is no difference."""
    return f"{value:.3f}" + ("" if pd.isna(delta) else f" ({change(delta, low, high)})")
