"""Write the words of each language in resources/scripts.yaml out of CLDR (through Babel) into resources/words/cldr/.

Names of countries, languages, currencies, months, days and units, divided at spaces; words with characters outside the
script's repertoire are left out. Needs Babel, which legible itself does not. CLDR: Unicode licence.
"""

import argparse
import json
import unicodedata
from pathlib import Path

from legible.config.scripts import known
from legible.errors import UserError, run_cli

LENGTH = range(2, 25)  # of a word, in characters


def cldr_strings(code: str) -> set[str]:
    """All names that CLDR has in a language."""
    from babel import Locale

    locale = Locale.parse(code)
    named = (locale.territories, locale.languages, locale.scripts, locale.currencies)
    found = {str(text) for names in named for text in names.values()}
    for names in (locale.months, locale.days, locale.eras, locale.quarters):
        found |= leaves(dict(names))
    return found | {text.replace("{0}", " ") for text in leaves(dict(locale.unit_display_names))}


def leaves(value: object) -> set[str]:
    """The strings at the ends of nested mappings."""
    if isinstance(value, str):
        return {value}
    values = value.values() if hasattr(value, "values") else ()
    return {text for inner in values for text in leaves(inner)}


def words_of(code: str, repertoire: str) -> list[str]:
    """The words of a language, sorted, in Unicode's composed form."""
    allowed, found = set(repertoire) | set("\u200c\u200d"), set()
    for text in cldr_strings(code):
        for word in unicodedata.normalize("NFC", text).replace("\u00a0", " ").split():
            word = word.strip("().,;:·/\"'„“”‘’«»[]{}–-،؛")
            letters = [c for c in word if unicodedata.category(c)[0] in "LM"]
            if len(word) in LENGTH and set(word) <= allowed and len(letters) >= 2 and not word[0].isnumeric():
                found.add(word)
    return sorted(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("resources/words/cldr"))
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    for name, script in known().scripts.items():
        native = (
            "".join(c for c in script.repertoire if not c.isascii()) if script.code != "Latn" else script.repertoire
        )
        for code in script.languages:
            words = words_of(code, native + "-")
            if not words:
                raise UserError(f"{code}: CLDR has no word in the characters of {name}")
            (args.output / f"{code}.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
            print(json.dumps({"script": name, "language": code, "words": len(words)}), flush=True)


if __name__ == "__main__":
    run_cli(main)
