"""What each kind of change would run again, and nothing else."""

import pytest
import yaml
from project import SCORES, checked, figures, readings

pytestmark = pytest.mark.workflow


def test_another_colour_redraws_that_figure_only(project):
    def change(config: dict) -> None:
        config["figures"]["cer_by_arm"]["colors"][0] = "#123456"

    assert project.changed(change) == {*figures({"cer_by_arm"}), ("write_config", ""), ("build_report", "")}


def test_another_lambda_retrains_that_arm_only(project):
    def change(config: dict) -> None:
        config["arms"]["clip_region"]["aux"]["lambda"] = 0.5

    assert project.changed(change) == {
        ("train_arm", "arm=clip_region, seed=0"),
        ("generate_finetuned", "arm=clip_region, prompt_set=short"),
        *readings(),
        *SCORES,
        *figures({"training_curves"}),
        ("write_config", ""),
    }


def test_one_more_engine_reads_the_images_that_are_there(project):
    def change(config: dict) -> None:
        config["ocr"]["easyocr"] = {"network": "resources/tiny/recognizer_crnn"}

    assert project.changed(change) == {*checked("easyocr"), *readings("easyocr"), *SCORES, ("write_config", "")}


def test_another_clip_leaves_the_control_alone(project):
    path = project.folder / "resources" / "tiny" / "clip" / "open_clip_config.json"
    before = path.read_text()
    try:
        path.write_text(before + "\n")
        trained = {job for job in project.would_run() if job[0] == "train_arm"}
    finally:
        path.write_text(before)
    assert trained == {("train_arm", "arm=clip_region, seed=0")}


def test_another_seed_trains_that_seed_only(project):
    def change(config: dict) -> None:
        config["seeds"] = [0, 3]

    jobs = project.changed(change)
    arms = ("diffusion_only", "clip_region")
    assert {job for job in jobs if job[0] == "train_arm"} == {("train_arm", f"arm={arm}, seed=3") for arm in arms}
    assert {job for job in jobs if job[0] == "read_ocr"} == readings()
    # One job an arm draws what is not there: the store knows the pictures of the seeds before.
    drawn = {("generate_finetuned", f"arm={arm}, prompt_set=short") for arm in arms}
    assert {job for job in jobs if job[0] == "generate_finetuned"} == drawn


ARM = {
    ("train_arm", "arm=clip_region, seed=0"),
    ("generate_finetuned", "arm=clip_region, prompt_set=short"),
    *readings(),
    *SCORES,
    *figures({"training_curves"}),
}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("legible/ocr/rapid.py", checked() | readings() | SCORES),
        ("legible/ocr/easy.py", set()),  # this engine is not in use
        ("legible/metrics/text.py", checked() | readings() | SCORES),
        ("legible/losses/clip_region.py", ARM),  # the control is left alone
        ("legible/models/clip.py", ARM),
        ("legible/losses/char_segmentation.py", set()),  # no arm uses it
        ("legible/models/segmenter.py", set()),
        ("scripts/write_config.py", {("write_config", ""), ("build_report", "")}),
        ("legible/nano/vae.py", set()),
    ],
)
def test_an_edited_module_reruns_the_stages_that_use_it(project, file, expected):
    assert project.edited(file, "\n\nANSWER = 42\n") == expected


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("legible/config/training.py", "optimiser steps from one auxiliary loss", "steps from one auxiliary loss"),
        ("legible/config/judges.py", "enlargement before reading", "how much larger it is read"),
        ("legible/config/losses.py", "strings one edit away", "one edit away"),
        ("legible/errors.py", "the disk is full; free some space", "the disk is full: free some space"),
        ("legible/io.py", "not a JSON object (", "no JSON object ("),
        ("legible/train/assistant.py", "is no LoRA of this model", "is not a LoRA of this model"),
        ("legible/train/checkpoint.py", "another process trains this run", "somebody else trains this run"),
        ("legible/wording.py", "unknown key; did you mean", "no such key; did you mean"),
        ("legible/progress.py", "s left", "seconds left"),
        ("legible/io.py", "def sha256_file(", "# A remark.\ndef sha256_file("),
    ],
)
def test_rewording_reruns_nothing(project, file, before, after):
    assert project.edited(file, after, instead_of=before) == set()


def test_the_dates_of_programs_and_library_rerun_nothing(project):
    """They are inputs, and a checkout dates them anew."""
    for path in [*(project.folder / "scripts").glob("*.py"), *(project.folder / "legible").rglob("*.py")]:
        path.touch()
    (project.folder / "legible").touch()
    assert project.would_run() == set()


@pytest.mark.parametrize(
    "file", ["resources/scripts.yaml", "resources/words/cldr/el.txt", "resources/fonts/SHA256SUMS"]
)
def test_other_words_scripts_or_fonts_redraw_the_showcase(project, file):
    expected = {("draw_showcase", ""), ("plot_figure", "figure=dataset"), ("build_report", "")}
    assert project.edited(file, "\n") == expected


NEW_FIGURE = """FIGURES = {
    "more": FigureEntry(
        title="More", module="legible.figures.cer_by_arm", needs=("summary", "seeds", "arms"), caption="More of it."
    ),
"""


def test_a_new_figure_is_drawn_alone(project):
    """The written configuration holds its style; the report shows it."""
    expected = {("plot_figure", "figure=more"), ("write_config", ""), ("build_report", "")}
    assert project.edited("legible/config/figures.py", NEW_FIGURE, instead_of="FIGURES = {\n") == expected


def test_a_picture_that_is_gone_is_drawn_again(project):
    folder = project.folder / "results" / "tiny" / "images" / "base" / "short"
    first = sorted(folder.glob("*.png"))[0]
    before = first.read_bytes()
    first.unlink()
    assert f"{first.name} is gone" in project.snakemake("--dry-run")
    assert {rule for rule, _ in project.would_run()} == {
        "generate_baseline", "read_ocr", "score_readings", "plot_figure", "build_report"
    }  # fmt: skip
    project.snakemake()
    assert first.read_bytes() == before
    assert project.would_run() == set()


def test_another_way_to_render_reruns_the_dataset_and_what_follows(project):
    jobs = project.edited("legible/render/sign.py", "\n\nANSWER = 42\n")
    assert {rule for rule, _ in jobs} == {
        "render_dataset", "encode_dataset", "train_arm", "generate_finetuned", "render_ceiling", "round_trip_ceiling",
        "check_judge", "read_ocr", "score_readings", "plot_figure", "build_report",
        "draw_showcase",  # of the dataset's figure: contrast is one formula
    }  # fmt: skip
    assert ("generate_baseline", "prompt_set=short") not in jobs


def test_an_upgraded_engine_reads_again(project, tmp_path):
    about = tmp_path / "rapidocr-99.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rapidocr\nVersion: 99.0\n")
    assert project.would_run(path=str(tmp_path)) == checked() | readings() | SCORES


def test_an_upgraded_package_that_nothing_depends_on_changes_nothing(project, tmp_path):
    about = tmp_path / "easyocr-99.0.dist-info"  # neither a judge nor a critic of this experiment
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: easyocr\nVersion: 99.0\n")
    assert project.would_run(path=str(tmp_path)) == set()


def test_arms_of_an_overlay_come_after_those_of_the_configuration(project):
    """Snakemake's merge puts them first: all figures would be redrawn in other colours."""
    overlay = {"arms": {"clip_region": {"aux": {"loss": "clip_region", "lambda": 0.2, "every": 1}}}}
    (project.folder / "one_arm.yaml").write_text(yaml.safe_dump(overlay))
    jobs = project.would_run("--configfile", "one_arm.yaml")
    assert {job for job in jobs if job[0] == "train_arm"} == {("train_arm", "arm=clip_region, seed=0")}
    assert ("plot_figure", "figure=dataset") not in jobs


def test_a_missing_prompt_file_is_named_even_where_everything_is_finished(project):
    """Snakemake alone says "Nothing to be done": the report would go on to cite a file that nobody has read."""
    overlay = {"prompt_sets": {"short": {"path": "prompts/gone.jsonl"}}}
    (project.folder / "gone.yaml").write_text(yaml.safe_dump(overlay))
    said = project.snakemake("--dry-run", "--configfile", "gone.yaml", check=False)
    assert "prompt_sets.short.path: there is no file 'prompts/gone.jsonl'" in said
    assert "Traceback" not in said


HOSTILE = "x$(touch injected)"


@pytest.mark.parametrize(
    "overlay",
    [
        {"results_page": "page;touch injected;x.md"},
        {"results_page": f"{HOSTILE}.md"},
        {"prompt_sets": {"short": {"path": f"results/prompts/{HOSTILE}.jsonl"}}},
        {"prompt_sets": {HOSTILE: {"path": "resources/prompts/held_out.jsonl"}}},
        {"arms": {HOSTILE: {"aux": {"loss": "none"}}}},
        {"experiment": HOSTILE},
        {"ocr": {"rapidocr": {"scale": HOSTILE}}},
    ],
    ids=str,
)
def test_no_value_reaches_a_shell_as_a_command(project, overlay):
    (project.folder / "hostile.yaml").write_text(yaml.safe_dump(overlay))
    project.snakemake("--configfile", "hostile.yaml", check=False)
    assert not list(project.folder.rglob("injected*"))


def test_paths_with_blanks_and_shell_characters_are_taken_as_they_are(project):
    folder = project.folder / "my $(touch injected) prompts; `touch injected`"
    folder.mkdir(exist_ok=True)
    prompts = (project.folder / "resources/prompts/held_out.jsonl").read_text().splitlines()[:1]
    (folder / "a 'b' \"c\".jsonl").write_text(prompts[0] + "\n")
    overlay = {"experiment": "odd", "prompt_sets": {"short": {"path": f"{folder.name}/a 'b' \"c\".jsonl"}}}
    (project.folder / "odd.yaml").write_text(yaml.safe_dump(overlay))
    project.snakemake("--configfile", "odd.yaml", "--", "results/odd/images/ceiling_render/short")
    assert (project.folder / "results/odd/images/ceiling_render/short/manifest.jsonl").is_file()
    assert not list(project.folder.rglob("injected*"))
