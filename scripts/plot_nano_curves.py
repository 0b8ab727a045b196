"""Draw the training curves of the nano models from the logs of their recipe."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from legible.errors import UserError, run_cli
from legible.io import atomic_path

PANELS = {
    "vae": "autoencoder: L1 + MSE",
    "denoiser": "denoiser + text encoder: MSE of the prediction",
    "clip": "CLIP: contrastive loss",
    "recognizer_crnn": "recogniser (judge): CTC loss",
    "recognizer_conv": "recogniser (for losses): CTC loss",
}


def main() -> None:
    """One panel a model: raw values faint, running median on top; for the transformer also the judged CER."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of the recipe's logs")
    parser.add_argument("--output", type=Path, required=True, help="PNG; a CSV of the CER curve is written beside it")
    arguments = parser.parse_args()
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
    for axis, (name, title) in zip(axes.flat, PANELS.items(), strict=False):
        log = arguments.work / f"{name}.jsonl"
        if not log.exists():
            raise UserError(f"{log}: no such log; train this part first (snakemake nano)")
        rows = pd.read_json(log, lines=True)
        column = "reconstruction" if name == "vae" else "loss"
        losses = rows.dropna(subset=[column])
        axis.plot(losses["step"], losses[column], color="#56B4E9", alpha=0.25, linewidth=0.5)
        axis.plot(losses["step"], losses[column].rolling(51, min_periods=5, center=True).median(), color="#0072B2")
        axis.set(title=title, xlabel="optimiser step", yscale="log")
        axis.title.set_fontsize(9)
        if name == "denoiser" and "cer" in rows:
            judged = rows.dropna(subset=["cer"])
            last = axes.flat[-1]
            last.plot(judged["step"] + 1, judged["cer"], "o-", color="#D55E00")
            last.axhspan(0.10, 0.45, color="#009E73", alpha=0.15, label="aim of the base model")
            last.set(title="held-out CER, RapidOCR, 8 steps (64 signs)", xlabel="optimiser step", ylim=(0, None))
            last.title.set_fontsize(9)
            last.legend(fontsize=8)
            judged[["step", "cer"]].to_csv(arguments.output.with_suffix(".csv"), index=False)
    with atomic_path(arguments.output) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    run_cli(main)
