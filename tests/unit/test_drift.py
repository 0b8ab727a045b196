"""Image drift: by hand, against brute force, its statistical properties, and the script on pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from legible.io import sha256_file, write_jsonl
from legible.metrics.distances import dssim, feature_distance, kid, measure_drift, pixel_rmse
from legible.metrics.drift import Drift, drift_rows
from legible.metrics.statistics import resample

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

ROOT = Path(__file__).resolve().parents[2]
METRICS = ["rmse", "dssim", "clip_distance", "kid"]


def noise(seed: int, number: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 16, 24, 3), dtype=np.uint8)


def test_the_pixel_distance_by_hand():
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    one = black.copy()
    one[0, 0, 0, 0] = 51  # 0.2 in one of twelve values
    pairs = pixel_rmse(np.concatenate([white, black, one]), np.concatenate([black, black, black]))
    assert pairs == pytest.approx([1.0, 0.0, 0.2 / np.sqrt(12)])
    assert pixel_rmse(black, white) == pytest.approx([1.0])  # uint8 must not wrap around


def test_ssim_of_flat_pictures_by_hand():
    # Without variance SSIM is (2ab + c) / (a² + b² + c) with c = (0.01 · 255)².
    first, second = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 150, np.uint8)
    constant = 2.55**2
    expected = 1 - (2 * 100 * 150 + constant) / (100**2 + 150**2 + constant)
    assert dssim(first, second) == pytest.approx([expected])


@pytest.mark.parametrize("distance", [pixel_rmse, dssim])
def test_distances_of_pictures(distance):
    images = noise(0)
    assert distance(images, images) == pytest.approx([0, 0, 0], abs=1e-12)
    assert (distance(images, noise(1)) > 0.2).all()
    assert distance(images, noise(1)) == pytest.approx(distance(noise(1), images))
    slightly = np.clip(images.astype(int) + 3, 0, 255).astype(np.uint8)
    assert (distance(images, slightly) < 0.05).all()
    with pytest.raises(ValueError, match="pairs of the same shape"):
        distance(images, images[:2])
    with pytest.raises(ValueError, match="pairs of the same shape"):
        distance(images[:0], images[:0])


def test_the_feature_distance_by_hand():
    features = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [3.0, 4.0]])
    base = np.array([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    assert feature_distance(features, base) == pytest.approx([0, 1, 2, 1 - 0.6])
    with pytest.raises(ValueError, match="same shape"):
        feature_distance(features, base[:3])


def test_kid_by_hand():
    # D = 1, so k(x, y) = (xy + 1)³: within 0 and 1: 1; within 1 and 2: 27; between: 1, 1, 8, 27.
    features, base = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kid(features, base) == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)
    # Paired, k(0, 1) = 1 and k(1, 2) = 27 are left out.
    assert kid(features, base, paired=True) == pytest.approx(1 + 27 - 2 * (1 + 8) / 2)


@pytest.mark.parametrize("paired", [False, True])
def test_kid_agrees_with_a_double_loop(paired):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(0.5, 1, size=(7 if paired else 9, 5))

    def mean(a: np.ndarray, b: np.ndarray, skip: bool) -> float:
        values = []
        for i in range(len(a)):
            for j in range(len(b)):
                if not (skip and i == j):
                    values.append((float(np.dot(a[i], b[j])) / 5 + 1) ** 3)
        return sum(values) / len(values)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, paired)
    assert kid(x, y, paired) == pytest.approx(expected, rel=1e-6)


def test_kid_of_equal_features_is_zero_in_pairs_and_negative_without():
    features = np.random.default_rng(0).normal(size=(20, 4))
    assert kid(features, features, paired=True) == pytest.approx(0, abs=1e-12)
    assert kid(features, features) < 0  # the price of being unbiased for independent samples


def test_kid_is_unbiased_and_finds_a_difference():
    rng = np.random.default_rng(1)
    same = [kid(rng.normal(size=(30, 8)), rng.normal(size=(20, 8))) for _ in range(400)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 3 * error
    assert min(same) < 0 < max(same)
    # Pairs that depend on each other and have the same distribution: unbiased only because the pair is left out.
    shared = [rng.normal(size=(30, 8)) for _ in range(400)]
    coupled = [(x + rng.normal(size=x.shape), x + rng.normal(size=x.shape)) for x in shared]
    paired = [kid(*pair, paired=True) for pair in coupled]
    assert abs(np.mean(paired)) < 3 * np.std(paired) / np.sqrt(len(paired))
    unpaired = [kid(*pair) for pair in coupled]
    assert np.mean(unpaired) < -3 * np.std(unpaired) / np.sqrt(len(unpaired))
    assert np.mean([kid(rng.normal(size=(30, 8)), rng.normal(1, 1, size=(20, 8))) for _ in range(20)]) > 1


@pytest.mark.parametrize(
    ("n", "m", "d", "paired"), [(1, 5, 4, False), (5, 1, 4, False), (5, 5, 3, False), (5, 6, 4, True)]
)
def test_kid_refuses_what_it_cannot_compare(n, m, d, paired):
    with pytest.raises(ValueError, match="needed"):
        kid(np.ones((n, 4)), np.ones((m, d)), paired)


def test_drift_is_averaged_within_prompts_and_kid_over_image_seeds():
    images, base = noise(0, 6), noise(1, 6)
    features, base_features = np.random.default_rng(2).normal(size=(2, 6, 4))
    keys = [("b", 0), ("a", 0), ("b", 1), ("a", 1), ("c", 0), ("c", 1)]
    drift = measure_drift(images, features, base, base_features, keys)
    rmse = pixel_rmse(images, base)
    assert drift.distances["rmse"].to_dict() == pytest.approx(
        {"a": (rmse[1] + rmse[3]) / 2, "b": (rmse[0] + rmse[2]) / 2, "c": (rmse[4] + rmse[5]) / 2}
    )
    by_seed = [kid(features[own], base_features[own], paired=True) for own in ([0, 1, 4], [2, 3, 5])]
    assert drift.kid == pytest.approx(np.mean(by_seed))


def test_rows_of_an_arm_by_hand():
    def run(values: list[float], own_kid: float) -> Drift:
        return Drift(pd.DataFrame({"rmse": values}, index=["a", "b"]), own_kid)

    weights = resample(2, 200, np.random.default_rng(0)).astype(float)
    arm, control = [run([0.2, 0.4], 0.1), run([0.4, 0.6], 0.3)], [run([0.1, 0.3], 0.05)]
    rmse, last = drift_rows(arm, control, weights, 0.95)
    assert (rmse["metric"], last["metric"]) == ("rmse", "kid")
    assert (rmse["value"], rmse["ci_low"], rmse["ci_high"]) == pytest.approx((0.4, 0.3, 0.5))
    # Both prompts differ by 0.2: the pairing leaves nothing to be unsure of.
    assert (rmse["delta_vs_control"], rmse["delta_low"], rmse["delta_high"]) == pytest.approx((0.2, 0.2, 0.2))
    assert (last["value"], last["delta_vs_control"]) == pytest.approx((0.2, 0.15))
    assert np.isnan([last[key] for key in ("ci_low", "ci_high", "delta_low", "delta_high")]).all()
    for row in drift_rows(control, None, weights, 0.95):
        assert np.isnan([row[key] for key in ("delta_vs_control", "delta_low", "delta_high")]).all()


def write_images(folder: Path, model: str, noise_level: int, seeds: tuple[int, ...] = (0, 1)) -> Path:
    """Pictures that depend on (prompt, seed), disturbed by a model of its own."""
    own, rows = folder / "images" / model / "no_text", []
    own.mkdir(parents=True)
    for prompt in range(4):
        for seed in seeds:
            rng = np.random.default_rng([prompt, seed])
            pixels = rng.integers(60, 190, 3) + rng.normal(0, 20, (32, 64, 3))
            pixels = pixels + noise_level * np.random.default_rng([prompt, seed, len(model)]).normal(size=pixels.shape)
            path = own / f"p{prompt}_s{seed}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
            rows.append({"file": path.name, "prompt_id": f"p{prompt}", "image_seed": seed, "sha256": sha256_file(path)})
    write_jsonl(own / "manifest.jsonl", rows[::-1] if model == "base" else rows)
    return own / "manifest.jsonl"


def run_script(folder: Path, clip: Path, manifests: list[Path]) -> subprocess.CompletedProcess:
    config = {"scoring": {"resamples": 100}, "clip": {"path": str(clip)}, "seeds": [0, 1]}
    config["arms"] = ["diffusion_only", "ctc"]
    command = [
        sys.executable,
        "scripts/score_drift.py",
        "--config",
        json.dumps(config),
        "--output",
        folder / "drift.csv",
    ]
    return subprocess.run(
        [*map(str, command), "--images", *map(str, manifests)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_script(tmp_path, folders):
    levels = {"base": 0, "diffusion_only-seed0": 0, "diffusion_only-seed1": 0, "ctc-seed0": 5, "ctc-seed1": 10}
    manifests = [write_images(tmp_path, model, level) for model, level in levels.items()]
    done = run_script(tmp_path, folders.clip, manifests)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "drift.csv")
    assert list(table.columns) == [
        *("arm", "metric", "value", "ci_low", "ci_high", "delta_vs_control", "delta_low", "delta_high"),
        *("n_prompts", "n_images", "n_training_seeds"),
    ]
    assert table["arm"].tolist() == [arm for arm in ("diffusion_only", "ctc", "base_other_seed") for _ in METRICS]
    assert table["metric"].tolist() == 3 * METRICS
    values = table.set_index(["arm", "metric"])["value"]
    assert values["diffusion_only"].to_numpy() == pytest.approx([0, 0, 0, 0], abs=1e-6)
    assert values["ctc", "rmse"] == pytest.approx(7.5 / 255, rel=0.05)
    distances = [metric for metric in METRICS if metric != "kid"]
    assert (values["base_other_seed"][distances] > values["ctc"][distances]).all()
    assert (values["ctc"][distances] > 0).all()
    counts = table.set_index("arm")[["n_prompts", "n_images", "n_training_seeds"]]
    assert counts.loc["ctc"].iloc[0].tolist() == [4, 16, 2]
    assert counts.loc["base_other_seed"].iloc[0].tolist() == [4, 8, 0]
    ctc = table[table["arm"] == "ctc"].set_index("metric")
    assert ctc["delta_vs_control"].to_numpy() == pytest.approx(ctc["value"].to_numpy(), abs=1e-6)
    assert ctc.loc[distances, ["ci_low", "delta_high"]].notna().all(axis=None)
    assert table.loc[table["arm"] != "ctc", ["delta_vs_control", "delta_low"]].isna().all(axis=None)

    singles = pd.read_parquet(tmp_path / "drift_by_prompt.parquet")
    assert singles.groupby("arm").size().to_dict() == {"ctc": 8, "diffusion_only": 8}  # 2 training seeds × 4 prompts
    means = singles[singles["arm"] == "ctc"][METRICS].mean()
    assert means.to_numpy() == pytest.approx(values["ctc"][METRICS].to_numpy(), rel=1e-4)
    assert set(singles["prompt_set"]) == {"no_text"}

    done = run_script(tmp_path, folders.clip, manifests[:-1])
    assert (done.returncode, "images of ctc-seed1 are missing" in done.stderr) == (2, True)


def test_the_script_names_what_does_not_fit_and_needs_two_image_seeds_for_the_scale(tmp_path, folders):
    models = ("base", "diffusion_only-seed0", "diffusion_only-seed1", "ctc-seed0", "ctc-seed1")
    manifests = [write_images(tmp_path, model, 5, (3,)) for model in models]
    done = run_script(tmp_path, folders.clip, manifests)
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(tmp_path / "drift.csv")["arm"]) == {"diffusion_only", "ctc"}
    rows = [json.loads(line) for line in manifests[-1].read_text().splitlines()]
    write_jsonl(manifests[-1], rows[1:])
    done = run_script(tmp_path, folders.clip, manifests)
    assert done.returncode == 2
    assert f"{manifests[-1]}: the prompts, image seeds and image size of base are needed" in done.stderr
