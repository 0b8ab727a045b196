"""RapidOCR: PP-OCR detection and recognition in ONNX. Its wheel carries the models, so nothing is downloaded."""

from importlib.metadata import version
from pathlib import Path

import rapidocr
from PIL import Image

from legible.config import RapidOcr
from legible.errors import UserError
from legible.ocr import Engine, Reading, enlarged_bgr, to_reading, whole_image


def open_engine(section: RapidOcr, cache_dir: Path) -> Engine:
    """Open RapidOCR on one thread; `cache_dir` is not used, as it writes nothing.

    With `detect: false` the whole image is recognised as one line (no angle classification either). No reading is
    dropped for a low confidence: garbled text that was read must count as garbled, not as absent.
    """
    recognizer = bundled_model("rec")
    models = [recognizer]
    params = {
        "Global.log_level": "critical",
        "Global.text_score": 0.0,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        # Naming the files keeps RapidOCR from looking for them on the network.
        "Rec.model_path": str(recognizer),
    }
    if section.detect:
        models.insert(0, bundled_model("det"))
        params["Det.model_path"] = str(models[0])
    ocr = rapidocr.RapidOCR(params=params)

    def read(image: Image.Image) -> list[Reading]:
        result = ocr(enlarged_bgr(image, section.scale), use_det=section.detect, use_cls=False, use_rec=True)
        # Nothing found: `txts` is None with detection, one empty string without.
        found = list(zip(result.txts or (), result.scores or (), strict=True))
        if not section.detect:
            return [to_reading(whole_image(image), text, score) for text, score in found if text.strip()]
        boxes = [] if result.boxes is None else result.boxes
        located = zip(boxes, found, strict=True)
        return [to_reading(box, text, score, section.scale) for box, (text, score) in located if text.strip()]

    names = " ".join(model.name for model in models)
    return Engine("rapidocr", f"{version('rapidocr')} {names}", read)


def bundled_model(task: str) -> Path:
    """The ONNX file for `task` (det or rec) inside the installed package."""
    folder = Path(rapidocr.__file__).parent / "models"
    found = sorted(folder.glob(f"*_{task}_*.onnx"))
    if len(found) != 1:
        raise UserError(f"{folder}: one {task} model is expected there, found {len(found)}; reinstall rapidocr")
    return found[0]
