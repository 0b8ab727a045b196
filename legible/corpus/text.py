"""Normalisation of text before it is compared, and its division into characters and words.

The profiles are versioned: their version is part of every score, and a change of a rule is a new version.
"""

import unicodedata

import regex

PROFILE_VERSIONS = {"strict": "strict-1", "lenient": "lenient-1"}

# Characters that stand for quotes or dashes without being punctuation in Unicode's eyes.
QUOTES_AND_DASHES = str.maketrans({"`": "'", "´": "'", "ˋ": "'", "ʹ": "'", "ʼ": "'", "ʺ": '"', "−": "-", "⁻": "-"})
# Scripts that are written without spaces between words.
UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]")


def normalize(text: str, profile: str) -> str:
    """`text` under a profile; normalising twice is the same as once.

    `strict`: NFC, every run of whitespace one space, none at the ends. Case, punctuation and letter forms count.
    `lenient`: also NFKC and case folding (full-width, ligatures, ß = ss), quotes and dashes unified, and then
    punctuation (Unicode P*) and invisible format characters (Cf) removed. Symbols such as $, + and € stay.

    Raises:
        ValueError: no such profile.
    """
    if profile == "strict":
        return collapse(unicodedata.normalize("NFC", text))
    if profile != "lenient":
        raise ValueError(f"profile {profile!r}: allowed are {', '.join(PROFILE_VERSIONS)}")
    # Removing a character can bring a letter and an accent together, which then compose: until nothing changes.
    while (folded := fold(text)) != text:
        text = folded
    return text


def fold(text: str) -> str:
    """One round of the lenient profile."""
    # First of all: NFKC takes the free-standing accent ´ for a space with an accent on it.
    text = text.translate(QUOTES_AND_DASHES)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = (c for c in text if unicodedata.category(c) != "Cf" and not unicodedata.category(c).startswith("P"))
    return unicodedata.normalize("NFKC", collapse("".join(kept)))


def collapse(text: str) -> str:
    """Every run of whitespace as one space, none at the ends."""
    return " ".join(text.split())


def characters(text: str) -> list[str]:
    """What a reader calls characters: extended grapheme clusters (UAX #29) of the NFC form.

    So é is one character however it is encoded, and so are क्षि and an emoji with a skin tone.
    """
    return regex.findall(r"\X", unicodedata.normalize("NFC", text))


def words(text: str) -> list[str]:
    """Words by whitespace; in scripts that are written without spaces every character is a word."""
    found = []
    for chunk in text.split():
        pending = ""
        for character in characters(chunk):
            if UNSPACED.match(character):
                found += [pending, character] if pending else [character]
                pending = ""
            else:
                pending += character
        if pending:
            found.append(pending)
    return found
