"""Model families: one file each behind the same small interface.

A family loads from a local folder or a pinned hub revision and offers `encode_prompts`, `encode_images`, `predict`,
`predicted_clean`, `decode`, `sample`, `sigma_grid`. Everything that differs between architectures (sign, time, shift,
prompt template, guidance) stays inside its file.
"""

from legible.config import Model
from legible.models.zimage import ZImage, open_zimage


def open_model(model: Model, components: tuple[str, ...], threads: int = 1) -> ZImage:
    """Open the parts of the configured model that a stage needs (e.g. only "transformer")."""
    return open_zimage(model, components, threads)
