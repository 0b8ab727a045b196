"""Gradients of two losses made into one: clipped each by itself, and without what works against the other (PCGrad)."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from training import Killed, equal, killed_at, metrics, model_of, region_loss, run, settings, small_data

from legible.metrics.training import clipped_share, gradient_ratio
from legible.models.family import ROLES, open_model
from legible.models.sampler import trajectory
from legible.seeds import stateless_generator
from legible.train.anchor import Trajectories
from legible.train.combine import clip, limit_gradients, plus, product, project
from legible.train.data import TrainingData, permuted

CLIP = {"loss": "clip_region", "lambda": 30.0, "every": 1}  # so strong that its gradient is about the other one's
VECTORS = st.lists(st.floats(-10, 10, width=32), min_size=4, max_size=4)


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


@pytest.fixture(scope="module")
def paths(folders) -> Trajectories:
    model = open_model(model_of(folders.zimage), ROLES)
    captions = model.encode_prompts(["a sign on dark blue", "a label on green"])
    noise = torch.randn((2, 12, 8, 16), generator=stateless_generator(0))
    return Trajectories(*trajectory(model, captions, noise, 4), captions)


def parts(values: list[float]) -> list[torch.Tensor | None]:
    """Gradients of three parameters, the second of which has none."""
    numbers = torch.tensor(values, dtype=torch.float64)
    return [numbers[:3], None, numbers[3:]]


def test_two_conflicting_gradients_are_projected_as_by_hand():
    one, other, projected = project([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])
    assert projected
    # (1, 0) − (−1 / 2)·(−1, 1) and (−1, 1) − (−1 / 1)·(1, 0): each against the other one as it was.
    assert one[0].tolist() == pytest.approx([0.5, 0.5])
    assert other[0].tolist() == pytest.approx([0.0, 1.0])
    assert plus(one, other)[0].tolist() == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("other", [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
def test_gradients_that_agree_or_stand_apart_are_left_alone(other):
    given_ones = [torch.tensor([1.0, 0.0])], [torch.tensor(other)]
    one, two, projected = project(*given_ones)
    assert not projected
    assert one is given_ones[0]
    assert two is given_ones[1]


@given(VECTORS, VECTORS, st.floats(0.01, 100))
def test_after_projection_nothing_works_against_the_other_loss(first, second, factor):
    one, other = parts(first), parts(second)
    lengths = [math.sqrt(product(g, g)) for g in (one, other)]
    assume(min(lengths) > 1e-3)
    new, new_other, projected = project(one, other)
    assert projected == (product(one, other) < 0)
    for changed, against in ((new, other), (new_other, one)):
        size = math.sqrt(product(changed, changed) * product(against, against))
        assert product(changed, against) >= -1e-9 * max(size, 1.0) - 1e-9 * lengths[0] * lengths[1]
        if projected:
            assert abs(product(changed, against)) <= 1e-9 * lengths[0] * lengths[1]
    # λ scales the auxiliary gradient: that decides neither the conflict nor what is left of the other one.
    scaled, _, again = project(one, plus([None] * 3, other, factor))
    assert again == projected
    for a, b in zip(scaled, new, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-7)


@given(VECTORS, st.floats(0.1, 30))
def test_clipping_shortens_to_the_limit_and_keeps_the_direction(values, limit):
    gradients = parts(values)
    length = math.sqrt(product(gradients, gradients))
    assume(abs(length - limit) > 1e-6)
    clipped, was = clip(gradients, limit)
    assert was == (length > limit)
    assert math.sqrt(product(clipped, clipped)) == pytest.approx(min(length, limit), abs=1e-9)
    assert product(clipped, gradients) == pytest.approx(min(length, limit) * length, abs=1e-6)


def limited(own: list[float], extra: list[float] | None, weight: float, **aux) -> tuple[list[float], float, dict]:
    """One parameter with gradient `own`, and what `limit_gradients` makes of it with max_grad_norm 1."""
    parameter = torch.nn.Parameter(torch.zeros(len(own)))
    parameter.grad = torch.tensor(own)
    gradients = [None if extra is None else torch.tensor(extra)]
    norm, said = limit_gradients([parameter], gradients, weight, settings(max_grad_norm=1.0, aux=CLIP | aux))
    return parameter.grad.tolist(), norm, said


def test_each_loss_is_clipped_by_itself():
    both = {"clipping": "each"}
    gradient, norm, said = limited([3.0, 0.0], [0.0, 8.0], 0.5, **both)
    assert gradient == pytest.approx([1.0, 1.0])  # 3 → 1, ½ · 8 → 1
    assert norm == pytest.approx(5.0)
    assert said == {"clipped_diffusion": True, "clipped_aux": True}
    gradient, _, said = limited([0.5, 0.0], [0.0, 8.0], 0.5, **both)
    assert gradient == pytest.approx([0.5, 1.0])  # the sum would have been clipped to (.12, .99)
    assert said == {"clipped_diffusion": False, "clipped_aux": True}
    gradient, _, said = limited([3.0, 4.0], None, 0.5, **both)
    assert gradient == pytest.approx([0.6, 0.8])
    assert said == {"clipped_diffusion": True, "clipped_aux": None}


def test_conflicts_come_before_clipping():
    gradient, norm, said = limited([4.0, 0.0], [-1.0, 1.0], 2.0, conflict="project")
    assert said == {"projected": True}
    length = math.hypot(2.0, 4.0)  # (2, 2) + (0, 2)
    assert norm == pytest.approx(length)
    assert gradient == pytest.approx([2 / length, 4 / length])
    gradient, _, said = limited([4.0, 0.0], [-1.0, 1.0], 2.0, conflict="project", clipping="each")
    assert gradient == pytest.approx([math.sqrt(0.5), math.sqrt(0.5) + 1.0])
    assert said == {"projected": True, "clipped_diffusion": True, "clipped_aux": True}
    assert limited([4.0, 0.0], None, 2.0, conflict="project")[2] == {"projected": None}


def test_a_step_counts_as_clipped_where_any_gradient_was():
    rows = {"grad_norm": [0.5, 5.0, 1.5, 9.0]}
    assert clipped_share(pd.DataFrame(rows), 1.0) == 0.75
    apart = rows | {"clipped_diffusion": [False, True, False, False], "clipped_aux": [True, None, False, None]}
    assert clipped_share(pd.DataFrame(apart), 1.0) == 0.5


ARMS = {
    "sum": {},
    "each": {"clipping": "each"},
    "project": {
        "conflict": "project",
        "balance": "gradient_norm",
        "target_ratio": 3.0,
        "smoothing": 0.0,
        "lambda_bounds": [1e-6, 1e6],
    },
    "both": {"clipping": "each", "conflict": "project", "every": 2, "measure_every": 0},
}


@pytest.fixture(scope="module")
def trained(folders, data, paths, tmp_path_factory) -> dict:
    """Each of ARMS, and each with an anchor: (weights, log)."""
    loss, found = region_loss(folders.clip), {}
    for name, aux in ARMS.items():
        for anchor in (None, paths):
            folder = tmp_path_factory.mktemp(name)
            training = settings(aux=CLIP | aux, anchor={"weight": 5.0 if anchor else 0.0, "batch_size": 4})
            weights = run(folders.zimage, data, training, folder, loss, paths=anchor)
            found[name, anchor is not None] = weights, metrics(folder)
    return found


def test_only_what_is_switched_on_stands_in_the_log(trained):
    extra = {
        "sum": set(),
        "each": {"clipped_diffusion", "clipped_aux"},
        "project": {"projected"},
        "both": {"clipped_diffusion", "clipped_aux", "projected"},
    }
    plain = set(trained["sum", False][1][0])
    for (name, _), (_, rows) in trained.items():
        assert all(set(row) == plain | extra[name] for row in rows)


@pytest.mark.parametrize("name", ["each", "both"])
def test_the_log_says_which_gradient_was_clipped(trained, name):
    for row in trained[name, False][1]:
        if row["loss_aux"] is None:  # on every other step of `both`
            assert row["clipped_aux"] is None
            assert row["clipped_diffusion"] == (row["grad_norm"] > 1.0)
            continue
        measured = row["grad_norm_diffusion"], row["lambda"] * row["grad_norm_aux"]
        # A projected gradient is shorter than the measured one by the sine of the angle.
        sine = math.sqrt(1 - row["grad_cosine"] ** 2) if row.get("projected") else 1.0
        assert row["clipped_diffusion"] == (measured[0] * sine > 1.0)
        assert row["clipped_aux"] == (measured[1] * sine > 1.0)
    assert name != "each" or {row["clipped_aux"] for row in trained[name, False][1]} == {True}


def test_a_step_is_projected_where_the_cosine_is_negative_and_balanced_as_without(trained):
    for name in ("project", "both"):
        rows = [row for row in trained[name, False][1] if row["loss_aux"] is not None]
        assert [row["projected"] for row in rows] == [row["grad_cosine"] < 0 for row in rows]
        assert any(row["projected"] for row in rows)


@pytest.mark.parametrize("ratio", [0.3, 1.0, 3.0, 10.0, 40.0])
def test_without_memory_the_balance_holds_the_ratio_on_every_step(folders, data, tmp_path, ratio):
    aux = {"balance": "gradient_norm", "target_ratio": ratio, "smoothing": 0.0, "lambda_bounds": [1e-6, 1e6]}
    training = settings(steps=3, aux=CLIP | aux | {"clipping": "each"})
    run(folders.zimage, data, training, tmp_path, region_loss(folders.clip))
    rows = pd.DataFrame(metrics(tmp_path))
    assert gradient_ratio(rows).tolist() == pytest.approx([ratio] * 3)
    assert (rows["clipped_aux"] == (ratio * rows["grad_norm_diffusion"] > 1)).all()


def test_the_anchor_belongs_to_the_diffusion_losss_side(trained):
    """Norms and cosine are of the losses alone, with and without an anchor, and so is λ; the step's gradient is not."""
    for name in ARMS:
        with_anchor, without = (trained[name, anchored][1] for anchored in (True, False))
        keys = ("grad_norm_diffusion", "grad_norm_aux", "grad_cosine", "lambda", "loss_diffusion", "loss_aux")
        assert [with_anchor[0][key] for key in keys] == [without[0][key] for key in keys]
        assert not equal(trained[name, True][0], trained[name, False][0])
        assert len({row["loss_anchor"] for row in with_anchor}) > 1


def test_arms_differ_in_their_weights(trained):
    weights = [trained[name, False][0] for name in ARMS]
    assert not any(equal(one, other) for i, one in enumerate(weights) for other in weights[:i])


@pytest.mark.parametrize("name", ["each", "both"])
def test_an_interrupted_training_ends_with_the_same_weights(folders, data, paths, tmp_path, monkeypatch, trained, name):
    loss = region_loss(folders.clip)
    training = settings(aux=CLIP | ARMS[name], anchor={"weight": 5.0, "batch_size": 4})
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path, loss, paths=paths)
    assert equal(run(folders.zimage, data, training, tmp_path, loss, paths=paths), trained[name, True][0])
    assert metrics(tmp_path) == trained[name, True][1]


def test_permuted_letters_change_the_loss_and_nothing_else_of_the_run(folders, data, tmp_path):
    loss, aux = region_loss(folders.clip), CLIP | {"targets": "permuted"}
    other = permuted(data, 3)
    assert len(other.texts) == len(data.texts)  # each of these texts has another order
    plain = run(folders.zimage, data, settings(aux=CLIP), tmp_path / "own", loss)
    placebo = run(folders.zimage, other, settings(aux=aux), tmp_path / "permuted", loss)
    assert not equal(plain, placebo)
    first, second = (metrics(tmp_path / name)[0] for name in ("own", "permuted"))
    assert first["loss_diffusion"] == second["loss_diffusion"]
    assert first["loss_aux"] != second["loss_aux"]


def test_a_sample_without_another_order_does_not_count(folders, data, tmp_path):
    """Samples 1, 7 … of the small data say 4711 once; here they say 5, and nobody else changes."""
    lonely = [sample for sample in range(12) if (data.owners == sample).sum() == 1]
    texts = ["AA" if owner in lonely else text for owner, text in zip(data.owners.tolist(), data.texts, strict=True)]
    other = permuted(replace(data, texts=tuple(texts)), 3)
    assert sorted(set(other.owners.tolist())) == [0, 3, 6, 9]
    seen = []

    def watched(view):
        seen.append(len(view.predicted))
        assert len(view.samples.unique()) == len(view.predicted)
        return region_loss(folders.clip)(view)

    training = settings(steps=3, aux=CLIP | {"targets": "permuted", "clipping": "each"})
    run(folders.zimage, other, training, tmp_path, watched)
    rows = metrics(tmp_path)
    assert sum(seen) == 4  # of 12 samples in 3 steps
    assert [row["loss_aux"] is None for row in rows] == [row["clipped_aux"] is None for row in rows]
