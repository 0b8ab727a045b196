"""Figures and the report."""


report: "../resources/report/workflow.rst"


rule plot_figure:
    """Draw one figure as PNG and PDF."""
    input:
        figure_inputs,
        programs=programs("plot_figure"),
    output:
        png=report(f"{RESULTS}/figures/{{figure}}.png", caption="../resources/report/figure.rst", category="Figures"),
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
    log:
        f"{RESULTS}/logs/plot_{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_{{figure}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="1h",
    params:
        style=figure_style,
        caption=figure_caption,
        arms=",".join(ARMS),
        seeds=list(CONFIG.seeds),
        results=results_folder,
        code=figure_code,
    shell:
        'python "$LEGIBLE"/scripts/plot_figure.py --figure {wildcards.figure:q} --style {params.style:q} --results {params.results:q}'
        " --arms {params.arms:q} --seeds {params.seeds:q} --output {output.png:q} 2>&1 | tee {log:q}"


rule write_config:
    """The merged and validated configuration of this experiment."""
    input:
        programs=programs("write_config"),
    output:
        f"{RESULTS}/config.yaml",
    log:
        f"{RESULTS}/logs/write_config.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(1000),
        runtime="30m",
    params:
        config=CONFIG.model_dump_json(by_alias=True),
        code=decides("write_config", packages=["pyyaml"]),
    shell:
        'python "$LEGIBLE"/scripts/write_config.py --config {params.config:q} --output {output:q} 2>&1 | tee {log:q}'


rule build_report:
    """One self-contained page: the answer, the numbers, the pictures, and how to repeat them."""
    input:
        config=rules.write_config.output,
        sources=report_sources(CONFIG),
        template=f"{HERE}resources/report/report.html.j2",
        programs=programs("build_report"),
    output:
        report(f"{RESULTS}/report.html", caption="../resources/report/report.rst", category="Report"),
    log:
        f"{RESULTS}/logs/build_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/build_report.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4000),
        runtime="1h",
    params:
        results=results_folder,
        figures=DRAWN,
        words=[[FIGURES[name].title, FIGURES[name].caption] for name in DRAWN],  # written anew when one changes
        code=decides("build_report", packages=["jinja2", "pandas"]),
    shell:
        'python "$LEGIBLE"/scripts/build_report.py --results {params.results:q} --config {input.config:q} --figures {params.figures:q}'
        " --output {output:q}"
        " 2>&1 | tee {log:q}"


rule write_results:
    """Tables and figures of this experiment and of its regimes as one page, with the machine and the command."""
    input:
        page_files,
        programs=programs("write_results"),
    output:
        page=PAGE,
        copies=[f"{Path(PAGE).parent}/results/{name}" for config in EXPERIMENTS for name in page_copies(config)],
    log:
        f"{RESULTS}/logs/write_results.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4000),
        runtime="1h",
    params:
        folders=page_folders,
        titles=json.dumps({config.experiment: config.title for config in EXPERIMENTS}),
        command=CONFIG.command,
        code=decides("write_results", packages=["pandas"]),
    shell:
        'python "$LEGIBLE"/scripts/write_results.py --results {params.folders:q} --titles-json {params.titles:q}'
        " --command {params.command:q} --output {output.page:q} 2>&1 | tee {log:q}"


rule figures:
    """Target: every figure as PNG and PDF."""
    input:
        expand(f"{RESULTS}/figures/{{figure}}.{{kind}}", figure=DRAWN, kind=["png", "pdf"]),


rule report:
    """Target: the report."""
    input:
        rules.build_report.output,
