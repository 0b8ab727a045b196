"""Tesseract's LSTM reader: a judge of a third family, trained on rendered documents by others.

`tesserocr` (optional: `pip install "legible[tesseract]"`) carries the engine; the language data are the system's.
"""

import os
import sys
from pathlib import Path

from PIL import Image

from legible.config import Tesseract
from legible.errors import UserError
from legible.io import sha256_file
from legible.ocr import Engine, Reading, enlarged_bgr, to_reading, whole_image

SYSTEM_FOLDERS = (
    "/usr/share/tesseract-ocr/5/tessdata",  # Debian
    "/usr/share/tessdata",  # Fedora, Arch
    "/opt/homebrew/share/tessdata",
    f"{sys.prefix}/share/tessdata",  # conda
)


def open_engine(section: Tesseract, cache_dir: Path) -> Engine:
    """Open Tesseract; `cache_dir` is not used, as it writes nothing. With `detect: false` the whole image is one line,
    and Tesseract reads one, with little confidence, even where there is none.

    Raises:
        UserError: tesserocr or the language data are not installed.
    """
    try:
        import tesserocr
    except ImportError as error:
        raise UserError('ocr.tesseract: install its engine with `pip install "legible[tesseract]"`') from error
    data = language_data(section)
    line = {"line": tesserocr.PSM.SINGLE_LINE, "raw line": tesserocr.PSM.RAW_LINE}[section.page_mode]
    mode = tesserocr.PSM.AUTO if section.detect else line
    api = tesserocr.PyTessBaseAPI(path=str(data.parent), lang=section.language, psm=mode, oem=tesserocr.OEM.LSTM_ONLY)

    def read(image: Image.Image) -> list[Reading]:
        api.SetImage(Image.fromarray(enlarged_bgr(image, section.scale)[..., ::-1]))
        api.SetSourceResolution(300)  # it would guess one, differently for every image
        api.Recognize()
        if not section.detect:
            text = " ".join(api.GetUTF8Text().split())
            return [to_reading(whole_image(image), text, api.MeanTextConf() / 100)] if text else []
        found = []
        level = tesserocr.RIL.TEXTLINE
        # With nothing recognised, the iterator stands on an element whose text raises.
        lines = tesserocr.iterate_level(api.GetIterator(), level) if api.GetUTF8Text().strip() else ()
        for line in lines:
            left, top, right, bottom = line.BoundingBox(level)
            corners = ((left, top), (right, top), (right, bottom), (left, bottom))
            if text := " ".join(line.GetUTF8Text(level).split()):
                found.append(to_reading(corners, text, line.Confidence(level) / 100, section.scale))
        return found

    engine = tesserocr.tesseract_version().split()[1]
    return Engine("tesseract", f"{engine} {data.name} {sha256_file(data)[:8]}", read)


def language_data(section: Tesseract) -> Path:
    """The .traineddata file of the language: in `data`, or else where the system keeps it.

    Raises:
        UserError: there is none.
    """
    name = f"{section.language}.traineddata"
    own = os.environ.get("TESSDATA_PREFIX")
    folders = [section.data] if section.data else [*([own] if own else []), *SYSTEM_FOLDERS]
    for folder in folders:
        if (file := Path(folder, name)).is_file():
            return file
    raise UserError(
        f"ocr.tesseract: {name} is not in {', '.join(folders)}; install it (Debian: tesseract-ocr-eng) or set "
        "ocr.tesseract.data"
    )
