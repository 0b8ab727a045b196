"""Write the dataset's test split as a prompt set: its captions, with held-out words in held-out fonts."""

import argparse
from pathlib import Path

import pandas as pd

from legible.errors import UserError, run_cli
from legible.io import write_jsonl
from legible.render.dataset import load_table


def prompts_of(test: pd.DataFrame, trained: set[str]) -> list[dict]:
    """The rows of a prompt set, one for each text of the split.

    Raises:
        UserError: a line of a sign is one that the train split has, too.
    """
    rows = []
    for row in test.rename(columns={"index": "number"}).drop_duplicates("text").itertuples():
        targets = row.text.split("\n")
        if seen := sorted(trained.intersection(targets)):
            raise UserError(f"data: '{seen[0]}' of the test split occurs in the train split; nothing is held out then")
        rows.append(
            {"id": f"test-{row.number:06d}", "prompt": row.caption, "targets": targets}
            | {"kind": row.kind.split("\n")[0], "font": row.font, "color": row.color, "background": row.background}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True, type=Path, help="train.parquet")
    parser.add_argument("--test", required=True, type=Path, help="test.parquet")
    parser.add_argument("--output", required=True, type=Path, help="prompt set to write (JSON lines)")
    args = parser.parse_args()
    trained = {line for text in load_table(args.train)["text"] for line in text.split("\n")}
    rows = prompts_of(load_table(args.test), trained)
    write_jsonl(args.output, rows)
    print(f"{len(rows)} prompts in {args.output}")


if __name__ == "__main__":
    run_cli(main)
