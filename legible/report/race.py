"""All arms of a race after the same time of training, as numbers beside the figure."""

from legible.figures.labels import arm_label, engine_label, is_placebo, with_control_first
from legible.metrics.curve import at_time, shared_seconds
from legible.metrics.statistics import seed_interval
from legible.names import CONTROL
from legible.report.experiment import Experiment, clock
from legible.report.words import change, percent

TITLE = "After the same time"
COLUMNS = ("Arm", "step then", "Judge", "CER ↓, then", "of each training seed", "minus control, over seeds alone")
COLUMNS += ("relative",)


def note(experiment: Experiment, seconds: float) -> str:
    """What the table's numbers are."""
    return (
        f"Every arm after {seconds:.0f} seconds of training ({clock(experiment)}), when the first of them ended. "
        "Between two snapshots the error rate is taken to change linearly. Differences are to the control of the same "
        "seed at that time, with Student's t interval over training seeds alone, not corrected for their number and on "
        "these prompts: they rank, and claim nothing."
    )


def after_same_time(experiment: Experiment, prompt_set: str) -> tuple[str, list[list[str]]]:
    """The note and the rows of the table, the lowest mean over judges first.

    Args:
        experiment: with a curve.
        prompt_set: one of its prompt sets.
    """
    curve = experiment.curve[experiment.curve["prompt_set"] == prompt_set]
    arms = [arm for arm in with_control_first(experiment.arms) if arm in set(curve["arm"]) and not is_placebo(arm)]
    seconds = shared_seconds(curve[curve["arm"].isin(arms)])
    then = at_time(curve, seconds).set_index(["arm", "engine", "training_seed"]).sort_index()
    means = then["value"].groupby(level="arm").mean()
    confidence, rows = experiment.config.scoring.confidence, []
    for arm in sorted(arms, key=lambda name: means[name]):
        engines = sorted(then.loc[arm].index.get_level_values("engine").unique())
        values = [then.loc[(arm, engine), "value"] for engine in engines]
        deltas = [value - then.loc[(CONTROL, engine), "value"] for value, engine in zip(values, engines, strict=True)]
        cells = [
            [engine_label(engine) for engine in engines],
            [f"{value.mean():.3f}" for value in values],
            [", ".join(f"{one:.3f}" for one in value) for value in values],
            [
                "–" if arm == CONTROL else change(delta.mean(), *seed_interval(delta.tolist(), confidence))
                for delta in deltas
            ],
            [
                "–" if arm == CONTROL else percent(delta.mean() / (value - delta).mean())
                for delta, value in zip(deltas, values, strict=True)
            ],
        ]
        rows.append([arm_label(arm), f"{then.loc[arm, 'step'].mean():.0f}", *("<br>".join(cell) for cell in cells)])
    return note(experiment, seconds), rows
