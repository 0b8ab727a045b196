"""Render the dataset: signs with words on them, captions, ink boxes and glyph masks, as Parquet."""

import argparse
from collections.abc import Iterable, Mapping
from importlib import import_module

from legible.config import sections
from legible.corpus.prompts import Excluded, Prompt, folded, load_prompts
from legible.errors import UserError, run_cli
from legible.render.dataset import render_signs, write_dataset
from legible.render.fonts import read_manifest, select_fonts


def check_disjoint(path: str | None, prompts: Iterable[Prompt], others: Mapping[str, Iterable[Prompt]]) -> None:
    """Refuse prompts of a file that ask for a target (`folded`) which one of the other files asks for, too.

    Raises:
        UserError: names both files and the target.
    """
    own = {folded(target) for prompt in prompts for target in prompt.targets}
    for other, theirs in others.items():
        for target in (target for prompt in theirs for target in prompt.targets):
            if folded(target) in own:
                raise UserError(
                    f"validation.prompts: {path} and {other} both ask for '{target}', but what weights are chosen by "
                    "must not be what they are scored by; take it out of one of them"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", required=True, help="JSON (inline or a file) with the sections fonts, data and perhaps render"
    )
    parser.add_argument("--fonts", required=True, help="font manifest of inspect_fonts.py")
    parser.add_argument("--prompts", nargs="*", default=[], help="prompt sets whose targets may not be trained on")
    parser.add_argument(
        "--validation", help="prompts that are drawn while training; they may share no target with these"
    )
    parser.add_argument("--output-dir", required=True, help="folder for train.parquet, test.parquet and summary.json")
    parser.add_argument("--workers", type=int, default=1, help="processes; the bytes do not depend on it")
    args = parser.parse_args()

    config = sections(args.config, "fonts", "data")
    names, data, render = config["fonts"], config["data"], config.get("render")
    # Whole files, whatever limit the experiment sets: a prompt added later must not turn out to be trained on.
    scored = {path: load_prompts(path) for path in args.prompts}
    watched = load_prompts(args.validation) if args.validation else ()
    check_disjoint(args.validation, watched, scored)
    excluded = Excluded.of([*scored.values(), watched])

    if render:
        # By name: what it is drawn with decides no dataset of plain signs.
        draw_pictures = import_module("legible.render.pictures").draw_pictures
        train, rejected = draw_pictures(render, data, "train", data.train, excluded, args.workers)
        test, rejected_test = draw_pictures(render, data, "test", data.test, excluded, args.workers)
    else:
        manifest = read_manifest(args.fonts)
        train_fonts = select_fonts(manifest, names.train, names.held_out)
        test_fonts = select_fonts(manifest, names.held_out) if names.held_out else train_fonts
        train, rejected = render_signs(data, train_fonts, "train", data.train, excluded, args.workers)
        test, rejected_test = render_signs(data, test_fonts, "test", data.test, excluded, args.workers)
    write_dataset(args.output_dir, train, test, {"train": rejected, "test": rejected_test}, excluded)
    reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted((rejected + rejected_test).items()))
    print(f"{len(train)} train and {len(test)} test signs in {args.output_dir}; rejected: {reasons or 'none'}")


if __name__ == "__main__":
    run_cli(main)
