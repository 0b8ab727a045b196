"""The nano tokenizer: whole words for what captions say, single characters for what is to be spelled.

A byte-pair tokenizer merges frequent strings, which is one reason why large models misspell. Nano keeps the words of
the caption templates whole (so that a caption fits into 32 tokens) and reads everything else character by character.
"""

import string

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(words: list[str], end_token: bool = False) -> PreTrainedTokenizerFast:
    """A fast tokenizer over `words` (lower case) and single characters.

    Args:
        words: words that become one token each when they stand alone between spaces, quotes or line ends.
        end_token: append `<|endoftext|>` to every text (what a CLIP text tower pools at).
    """
    vocabulary = [*list(SPECIAL), "\n", "user", "assistant", *sorted(set(words) - {"user", "assistant"})]
    vocabulary += [c for c in string.ascii_letters + string.digits + string.punctuation if c not in vocabulary]
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="<unk>"))
    known = "|".join(sorted((w for w in vocabulary[len(SPECIAL) + 1 :] if len(w) > 1), key=len, reverse=True))
    # Spaces separate and vanish; a known word between boundaries is kept whole; all the rest falls apart.
    backend.pre_tokenizer = Sequence(
        [
            Split(Regex(" +"), behavior="removed"),
            Split(Regex(rf"^({known})$|(?<![A-Za-z0-9])({known})(?![A-Za-z0-9])"), behavior="isolated"),
            Split(Regex(rf"^({known})$|[\s\S]"), behavior="isolated"),
        ]
    )
    if end_token:
        backend.post_processor = TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<unk>" if end_token else "<|endoftext|>",
        eos_token="<|endoftext|>" if end_token else "<|im_end|>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=512,
        padding_side="right",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
