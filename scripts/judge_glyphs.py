"""Look for malformed letters in the pictures of one or more manifests: one JSON object a picture."""

import argparse
from pathlib import Path

from legible.config import sections
from legible.errors import UserError, run_cli
from legible.io import sealed, write_jsonl
from legible.manifests import manifest_in
from legible.metrics.files import open_image
from legible.ocr.glyphs import OpenedGlyphJudge, open_glyph_judge
from legible.ocr.manifests import listed_images
from legible.progress import progress


def judge_manifest(judge: OpenedGlyphJudge, manifest: Path) -> list[dict]:
    """A row for each picture that the manifest lists."""
    listed = listed_images(manifest)
    # A manifest's file name is data: only the folder's own files are read.
    pictures = [open_image(manifest.parent / Path(row["file"]).name, row.get("sha256")) for row in listed]
    return [
        {key: row[key] for key in ("file", "prompt_id", "image_seed")}
        | {"probability": round(found, 6), "malformed": found >= judge.threshold, "judge_version": judge.version}
        for row, found in zip(listed, judge.probabilities(pictures), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with the section glyph_judge")
    parser.add_argument("--images", required=True, nargs="+", type=manifest_in, help="folders of pictures")
    parser.add_argument("--output", required=True, nargs="+", type=Path, help="JSON lines file, for each")
    args = parser.parse_args()
    section = sections(args.config, "glyph_judge")["glyph_judge"]
    if section is None or len(args.images) != len(args.output):
        raise UserError("--config, --output: the section glyph_judge and a file for each of --images are needed")
    judge = open_glyph_judge(section.path)
    for manifest, output in progress(list(zip(args.images, args.output, strict=True)), "glyphs", unit="image set"):
        write_jsonl(output, [sealed(row) for row in judge_manifest(judge, manifest)])


if __name__ == "__main__":
    run_cli(main)
