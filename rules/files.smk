"""Files of models, readers and judges, and of this project itself, as inputs of jobs."""

from itertools import chain


def folder_files(path):
    """Files of a local folder, so that a changed model reruns what uses it; nothing for a hub id, or without a path."""
    folder = Path(path) if path else None  # Path("") would be the working directory
    return sorted(str(file) for file in folder.glob("*") if file.is_file()) if folder and folder.is_dir() else []


def model_files(*roles):
    """Files of the model's components by their roles: denoiser, text, autoencoder, scheduler; and what tells their sizes."""
    folder = Path(CONFIG.model.path)
    sizes = [str(path) for path in sorted([*folder.glob("model_index.json"), *folder.glob("*/config.json")])]
    return list(dict.fromkeys([*sizes, *chain(*(folder_files(folder / name) for name in SPEC.folders(*roles)))]))


def section_files(section):
    """Files of the networks that a critic's or a judge's section names."""
    return [file for key in ("path", "network", "models", "data") for file in folder_files(getattr(section, key, ""))]


def script_files():
    """What this project knows of each script, and its words."""
    return [f"{HERE}resources/scripts.yaml", *sorted(map(str, Path(HERE, "resources/words/cldr").glob("*.txt")))]


def own(*paths):
    """Files and folders of this project that jobs read: deployed with it, never by a storage, whatever their dates.

    A change of theirs reruns nothing by itself: `code` among the parameters decides for programs, sums for fonts.
    """
    return [ancient(local(f"{HERE}{path}")) for path in paths]


def programs(*scripts):
    """The scripts that a job runs, and what is behind them."""
    return own(*(f"scripts/{name}.py" for name in scripts), "legible", "resources/scripts.yaml")
