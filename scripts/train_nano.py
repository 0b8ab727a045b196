"""Train one part of the nano models (vae, denoiser, clip, recognizer_crnn, recognizer_conv); resumable."""

import argparse
import time
from pathlib import Path

import torch

from legible.corpus.prompts import load_prompts
from legible.corpus.templates import vocabulary
from legible.errors import run_cli
from legible.fingerprint import code_fingerprint
from legible.io import sha256_json, write_json, write_text
from legible.models.family import Family
from legible.nano import clip, denoiser, judge, recognizer, vae
from legible.nano import pool as pools
from legible.nano.recipe import Recipe, tiny
from legible.nano.tokenizer import build_tokenizer
from legible.provenance import environment


def train_part(part: str, recipe: Recipe, key: str, work: Path, output: Path, compiled: bool, small: bool) -> dict:
    """Train `part` into its folder below `output` and return what was measured."""
    held_out = pools.held_out_pool(recipe)
    pool = pools.build_pool(recipe, load_prompts(pools.HELD_OUT, None), work)
    size = (recipe.data.height, recipe.data.width)
    if part == "vae":
        model = vae.train_vae(recipe.vae, pool, recipe.seed, key, work)
        with torch.no_grad():
            pixels = held_out.pixels(torch.arange(len(held_out.images)))
            decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample
        model.save_pretrained(output / recipe.family / "vae")
        return {
            "render_cer": judge.read_cer(judge.to_images(pixels), held_out.texts, work),
            "round_trip_cer": judge.read_cer(judge.to_images(decoded), held_out.texts, work),
            "psnr_db": float(10 * torch.log10(4 / (decoded.clamp(-1, 1) - pixels).square().mean())),
        }
    if part == "clip":
        return clip.train_clip(recipe.clip, pool, pools.retrieval_pool(recipe), recipe.seed, key, work, output / "clip")
    if part in recipe.recognizers:
        network = recipe.recognizers[part]
        source = Path(f"resources/nano/{part}/{part}.py")  # the architecture is source code, not a result
        write_text(output / part / source.name, source.read_text(encoding="utf-8"))
        return recognizer.train_recognizer(part, network, pool, held_out, key, work, output / part)
    autoencoder = vae.AutoencoderKL.from_pretrained(output / recipe.family / "vae").eval()
    latents = (vae.encode_pool(autoencoder, pool) - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor
    tokenizer = build_tokenizer(vocabulary())

    build = denoiser.builder(recipe.family)

    def cer(model: Family, count: int = 64) -> float:
        images = judge.sample_signs(model, held_out.captions[:count], size, recipe.denoiser.sampling_steps)
        return judge.read_cer(images, held_out.texts[:count], work)

    model = denoiser.train_denoiser(
        recipe.denoiser, recipe.family, build.TINY if small else build.SIZES, pool, autoencoder, latents, tokenizer,
        recipe.seed, key, work, cer, compiled=compiled,
    )  # fmt: skip
    build.save(model, output / recipe.family)
    return {"held_out_cer": cer(model, len(held_out.texts)), "signs": len(held_out.texts)}


def main() -> None:
    """Parse, train, measure, write the part's provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("vae", "denoiser", "clip", *Recipe().recognizers))
    parser.add_argument("--output", type=Path, required=True, help="folder of the models, e.g. resources/nano")
    parser.add_argument("--work", type=Path, required=True, help="folder for the pool, checkpoints and curves")
    parser.add_argument("--provenance", type=Path, help="also write the provenance here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="a fifth faster; needs a C++ compiler")
    parser.add_argument("--tiny", action="store_true", help="a miniature for tests")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = tiny() if arguments.tiny else Recipe()
    plain = recipe.as_dict()
    relevant = {name: plain[name] for name in ("seed", "pool", "fonts", "data")}
    relevant |= {"part": plain.get(arguments.part, plain["recognizers"].get(arguments.part))}
    began, code = time.monotonic(), code_fingerprint(__file__)
    key = sha256_json(relevant)
    measured = train_part(
        arguments.part, recipe, key, arguments.work, arguments.output, arguments.compile, arguments.tiny
    )
    folder = recipe.family if arguments.part in ("vae", "denoiser") else arguments.part
    provenance = {
        "command": f"snakemake --cores all nano   # scripts/train_nano.py {arguments.part}",
        "recipe": relevant,
        "code": code,
        "seconds_in_this_process": round(time.monotonic() - began),
        "measured": measured,
        **environment(),
    }
    write_json(arguments.output / folder / f"provenance_{arguments.part}.json", provenance)
    if arguments.provenance:
        write_json(arguments.provenance, provenance)
    print(measured)


if __name__ == "__main__":
    run_cli(main)
