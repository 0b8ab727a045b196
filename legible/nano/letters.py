"""Letters of further scripts for a nano that has never seen them: tokens of their own, and embeddings for these.

Without, every such letter is `<unk>`, and no training can tell one from another.
"""

from dataclasses import replace

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from legible.config.scripts import known
from legible.corpus.templates import vocabulary
from legible.corpus.words import LATIN, letters_of
from legible.models.family import Family
from legible.nano.tokenizer import build_tokenizer


def further_letters() -> str:
    """The capitals of all scripts that have some, in the order of resources/scripts.yaml, without Latin's."""
    names = (name for name, script in known().scripts.items() if script.alphabet and name != LATIN)
    return "".join(map(letters_of, names))


def add_letters(tokenizer: PreTrainedTokenizerFast, encoder: PreTrainedModel, letters: str, seed: int) -> None:
    """Give each of `letters` a token behind all others, and the encoder a row for it; what both did stays as it was.

    A new row is drawn from the mean and the spread of the Latin capitals' rows: a letter among letters, none of them.
    """
    if not (new := [letter for letter in letters if letter not in tokenizer.get_vocab()]):
        return
    tokenizer.add_tokens([AddedToken(letter, normalized=False) for letter in new])
    rows = encoder.get_input_embeddings().weight.detach().clone()
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        weight: Tensor = encoder.get_input_embeddings().weight
        weight[: len(rows)] = rows
        weight[len(rows) :] = drawn_rows(rows[tokenizer.convert_tokens_to_ids(list(letters_of(LATIN)))], len(new), seed)


def with_words(model: Family, words: list[str], seed: int) -> Family:
    """The model with a tokenizer that keeps `words` whole, too; known tokens keep their rows, new rows are drawn."""
    old, encoder = model.tokenizer, model.text_encoder
    tokenizer, known = build_tokenizer([*vocabulary(), *words]), old.get_vocab()
    further = sorted((token for token in known if token not in tokenizer.get_vocab()), key=known.__getitem__)
    tokenizer.add_tokens([AddedToken(letter, normalized=False) for letter in further])  # a vocabulary has no order
    rows = encoder.get_input_embeddings().weight.detach().clone()
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
    new = iter(drawn_rows(rows[[known[word] for word in vocabulary()]], sum(t not in known for t in tokens), seed))
    encoder.resize_token_embeddings(len(tokens), mean_resizing=False)
    with torch.no_grad():
        encoder.get_input_embeddings().weight.copy_(
            torch.stack([rows[known[token]] if token in known else next(new) for token in tokens])
        )
    return replace(model, tokenizer=tokenizer)


def drawn_rows(like: Tensor, count: int, seed: int) -> Tensor:
    """`count` rows from the mean and standard deviation, column by column, of the rows of `like` [K, D]."""
    noise = torch.randn((count, like.shape[1]), generator=torch.Generator().manual_seed(seed))
    return like.mean(0) + noise * like.std(0)
