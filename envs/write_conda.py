"""Write envs/legible.yaml from envs/requirements.txt: the same pinned, hashed packages for `snakemake --sdm conda`.

conda copies the file elsewhere, where it would not find requirements.txt beside it: every requirement stands in it.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
HEAD = """# For `snakemake --sdm conda`; without it the jobs run in the environment that `make` creates. Written by
# envs/write_conda.py from requirements.txt; `make requirements` does it.
channels:
  - conda-forge
dependencies:
  - python =3.11
  - pip
  - pip:
"""


def conda(requirements: str) -> str:
    """The environment file that holds the lines of a requirements file, each with all its hashes."""
    lines = requirements.replace("\\\n", " ").splitlines()
    kept = (" ".join(line.split()) for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return HEAD + "".join(f"      - '{line.replace(chr(39), chr(34))}'\n" for line in kept)


if __name__ == "__main__":
    (HERE / "legible.yaml").write_text(conda((HERE / "requirements.txt").read_text()))
