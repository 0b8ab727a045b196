"""A clock that was set back leaves files of the future, and Snakemake ends every job that reads one, after it has run."""

from legible.clock import date_back

if workflow.is_main_process:
    for dated in date_back(RESULTS, "results/cache"):
        print(f"{dated}: dated in the future, as of now from here on", file=sys.stderr)
