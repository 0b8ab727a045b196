"""Whether prompts are fresh: nothing of this project was trained on their targets, or chosen by them."""

from collections.abc import Iterable, Mapping

from legible.corpus.prompts import Prompt
from legible.corpus.words import is_held_out, word_lists


def trained_words(script: str) -> tuple[str, ...]:
    """The listed words that training text may be drawn from: those of datasets and of nano's pool (the split train)."""
    return tuple(word for words in word_lists(script) for word in words if not is_held_out(word))


def drawable(target: str, words: Iterable[str]) -> str:
    """What training text may have held of a target: itself (any string of the split train), or a word around it.

    Args:
        words: of `trained_words`. Random strings of the pool are in no list: they may hold a short target, too.
    """
    if not is_held_out(target):
        return target
    folded = target.casefold()
    return next((word for word in words if folded in word.casefold()), "")


def overlaps(prompts: Iterable[Prompt], others: Mapping[str, Iterable[Prompt]], words: Iterable[str]) -> list[str]:
    """Why these prompts are not fresh, a clause each; empty: they are.

    Args:
        prompts: those to be fresh, with targets.
        others: name → prompts that were looked at or trained on, with targets or without.
        words: of `trained_words`.
    """
    listed, found = tuple(words), []
    known = [(other.prompt, name) for name, prompts_of in others.items() for other in prompts_of]
    targets = [(t.casefold(), name) for name, prompts_of in others.items() for p in prompts_of for t in p.targets]
    texts = dict(known)
    for prompt in prompts:
        if prompt.prompt in texts:
            found.append(f"the prompt {prompt.id} is also in {texts[prompt.prompt]}")
        for target in prompt.targets:
            own = target.casefold()
            found += [
                f"the target {target!r} of {prompt.id} overlaps {other!r} in {name}"
                for other, name in targets
                if own in other or other in own
            ]
            if text := drawable(target, listed):
                found.append(f"the target {target!r} of {prompt.id} may be in training text (as {text!r})")
    return found
