"""Pictures per second and core of the text engine, next to SynthTIGER, SynthDoG and trdg in environments of their own.

python benchmarks/render.py --output FILE.json [--synthtiger FOLDER] [--synthdog FOLDER] [--environments FOLDER]

Every case is a process with one thread that draws some pictures to warm up and then counts its own *processor* seconds
("processes N" counts wall seconds, of 512 × 512).
All cases run one after the other, round by round. Legible's figures include labels, masks and encoding (JPEG, PNG);
the others' are what their generator returns (SynthTIGER's with glyph boxes and masks, trdg's with a mask).

The peers' environments are made by uv where they do not exist yet (needs a package index). SynthTIGER's fonts, textures
and words come from a copy of its repository (clovaai/synthtiger), SynthDoG (of SynthTIGER's environment) is a folder of
another one (clovaai/donut, synthdog/); without these they are left out.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from legible.errors import UserError, run_cli
from legible.io import write_json

PEERS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# As each one's authors pin or need them; trdg's own pins no longer install.
PINS = {
    "synthtiger": [["synthtiger==1.2.1", "pillow<10", "numpy<1.24"]],
    "trdg": [
        ["--no-deps", "trdg==1.8.0"],
        ["pillow<10", "numpy<2", "opencv-python-headless<4.12", "setuptools", "requests", "tqdm", "beautifulsoup4"],
        ["diffimg", "arabic-reshaper", "python-bidi", "wikipedia", "pillow<10", "numpy<2"],
    ],
}
LEGIBLE = ("512", "templates 512", "1024", "64x256", "32x128", "pure 64x256", "latin 64x256", "latin plain 64x256")
LEGIBLE += ("drawn latin plain 64x256", "processes 1", "processes 2")


def environment(folder: Path, name: str) -> Path:
    """The Python of a peer's environment, made if it is not there."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        run([uv(), "venv", "--quiet", "--python", "3.11", str(folder / name)])
        for packages in PINS[name]:
            run([uv(), "pip", "install", "--quiet", "--python", str(python), *packages])
    return python


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def run(command: list[str]) -> str:
    """Standard output of a command.

    Raises:
        UserError: it failed; its last line is given.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **ONE_THREAD})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{' '.join(command[:4])} … failed: {last}")
    return done.stdout


def cases(args: argparse.Namespace) -> dict[str, list[str]]:
    """Name → command without its counts."""
    found = {f"legible {case}": [sys.executable, str(PEERS / "legible_peer.py"), case] for case in LEGIBLE}
    if args.synthtiger:
        python = environment(args.environments, "synthtiger")
        for kind in ("own", "plain"):
            command = [str(python), str(PEERS / "synthtiger_peer.py"), str(args.synthtiger.resolve()), kind]
            found[f"synthtiger {kind}"] = command
    if args.synthdog:
        python = environment(args.environments, "synthtiger")
        found["synthdog 512"] = [str(python), str(PEERS / "synthdog_peer.py"), str(args.synthdog.resolve()), "512"]
    python = environment(args.environments, "trdg")
    return found | {f"trdg {kind}": [str(python), str(PEERS / "trdg_peer.py"), kind] for kind in ("white", "noise")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True)
    parser.add_argument("--synthtiger", type=Path, help="copy of SynthTIGER's repository")
    parser.add_argument("--synthdog", type=Path, help="copy of SynthDoG, with its English resources")
    parser.add_argument("--environments", type=Path, default=Path("/tmp/legible_peers"))
    parser.add_argument("--only", nargs="+", help="cases by their names; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=200, help="pictures of Legible and trdg; of others a tenth")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)

    words = str(ROOT / "resources" / "words" / "cldr" / "en.txt")
    rates: dict[str, list[float]] = {}
    sizes: dict[str, list[int]] = {}
    commands = {name: command for name, command in cases(args).items() if not args.only or name in args.only}
    for number in range(args.rounds):
        for name, command in commands.items():
            count = args.count // 10 if name.startswith("synth") else args.count
            # Within a dataset most glyphs have been drawn before; a page of SynthDoG takes a second.
            warm = count // 2 if name.startswith("synthdog") else 4 * count
            more = [str(count), str(warm), str(number), *([words] if name.startswith("trdg") else [])]
            found = json.loads(run([*command, *more]).splitlines()[-1])
            rates.setdefault(name, []).append(found["images"] / found["seconds"])
            sizes[name] = found["median"]
            print(f"{number + 1}/{args.rounds} {name}: {rates[name][-1]:.1f} pictures/s/core", flush=True)
    result = {
        "machine": platform.processor() or platform.machine(),
        "cases": {
            name: {"height_width": sizes[name], "per_second": [round(rate, 2) for rate in found],
                   "median": round(statistics.median(found), 2)}
            for name, found in rates.items()
        },
    }  # fmt: skip
    write_json(args.output, result)


if __name__ == "__main__":
    run_cli(main)
