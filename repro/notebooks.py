"""Notebooks: executed by papermill into files that depend on nothing but code and records, and what their cells use.

``execute`` writes two files: the executed notebook, and one HTML page of it that needs no network, with equations as
MathML and pictures inside. Executed twice, both are the same bytes: no times, no random ids, no absolute paths.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from xml.etree import ElementTree

import nbformat
import papermill
from IPython.display import Image, Markdown
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from latex2mathml.converter import convert
from matplotlib.figure import Figure
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from pygments.formatters import HtmlFormatter

from repro import claims, report, store, words
from repro.errors import ReproError
from repro.page import THEMES
from repro.records import Record, write_atomic
from repro.report import ARTEFACTS, select, style

CELL_SECONDS = 600  # a cell that runs longer hangs: cells train on toy data only


def of_source(folder: Path, source: str) -> list[Path]:
    """The notebooks of a source in ``folder``: ``<source>.ipynb``, and then ``<source>-<part>.ipynb`` by name."""
    return [path for path in (folder / f"{source}.ipynb", *sorted(folder.glob(f"{source}-*.ipynb"))) if path.exists()]


# Executing -----------------------------------------------------------------------------------------------


def execute(source: Path, out: Path, parameters: Mapping[str, Any], root: Path = Path()) -> None:
    """Run the notebook ``source`` and write it with its outputs to ``out``, and as a page beside it (``.html``).

    What cells write to stderr (warnings, progress bars) goes to our stderr and not into the files, because it holds
    paths and times.

    Args:
        source: notebook; one cell is tagged ``parameters`` and assigns every parameter its default.
        out: executed notebook, ``.ipynb``.
        parameters: values that replace defaults.
        root: root of the repository, in which the cells run.

    Raises:
        ReproError: an unreadable notebook, an unknown parameter, a cell that fails, an equation that has no MathML
            form, or a folder that is not writable; what ``out`` held before is left as it was.
    """
    notebook = _read(source)
    known = _parameters(notebook)
    if unknown := sorted(set(parameters) - set(known)):
        raise ReproError(
            f"{source}: unknown parameter {unknown[0]!r}; its cell tagged `parameters` defines "
            f"{', '.join(known) or 'none'}; pass one of these"
        )
    with TemporaryDirectory() as settings:
        try:
            executed = papermill.execute_notebook(
                notebook,
                None,
                dict(parameters),
                kernel_name="python3",
                language="python",
                cwd=str(root),
                progress_bar=sys.stderr.isatty(),
                execution_timeout=CELL_SECONDS,
                kernel_manager_class=_Kernel,
                coalesce_streams=True,  # else the number of outputs depends on timing
                extra_arguments=["--IPKernelApp.log_level=50", f"--ipython-dir={settings}"],
            )
        except PapermillExecutionError as error:
            raise ReproError(_failure(source, notebook, error, injected=bool(parameters))) from error
        except (RuntimeError, TimeoutError) as error:  # a dead kernel, or one that never answers
            problem = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ReproError(
                f"{source}: the kernel stopped ({problem}); a cell may need more memory than there is, or more than "
                f"{CELL_SECONDS} s; run the notebook by hand to see which"
            ) from error
    _make_stable(executed, source, root)
    title = f"{source.name}, executed with " + ", ".join(f"{k} = {v!r}" for k, v in parameters.items())
    page = html_page(executed, title if parameters else f"{source.name}, executed", source)
    write_atomic(out, nbformat.writes(executed).rstrip("\n") + "\n")
    write_atomic(out.with_suffix(".html"), page)


class _Kernel(AsyncKernelManager):
    """ipykernel on this very interpreter, whatever kernels the user has installed under the name ``python3``."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def _read(source: Path) -> NotebookNode:
    try:
        return nbformat.read(source, as_version=4)
    except FileNotFoundError as error:
        raise ReproError(f"{source}: no such notebook; `ls notebooks` shows those that exist") from error
    except Exception as error:  # not JSON, or JSON of something else, on which nbformat fails in many ways
        raise ReproError(f"{source}: not a notebook; restore it with `git checkout -- {source}`") from error


def _parameters(notebook: NotebookNode) -> list[str]:
    """Names that the cell tagged ``parameters`` assigns."""
    cell = next((c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), None)
    body = ast.parse(cell.source).body if cell is not None else []
    targets = [t for node in body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _failure(source: Path, notebook: NotebookNode, error: PapermillExecutionError, injected: bool) -> str:
    """One line on the cell that failed, numbered from 1 as in ``source``."""
    number = error.cell_index
    if injected:  # papermill put a cell of its own behind the parameters
        tagged = next(k for k, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", []))
        number -= number > tagged
    last = [line.strip() for line in str(error.evalue).splitlines() if line.strip()][-1:]
    return (
        f"{source}: cell {number + 1} of {len(notebook.cells)} (id {notebook.cells[number].get('id', 'none')}) failed: "
        + ": ".join([str(error.ename), *last])
    )


def _make_stable(notebook: NotebookNode, source: Path, root: Path) -> None:
    """Drop, in place, all that differs between two executions: times, random ids, versions, paths and stderr."""
    notebook.metadata = NotebookNode(kernelspec={"name": "python3", "display_name": "Python 3", "language": "python"})
    for number, cell in enumerate(notebook.cells, start=1):
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": tags} if tags else {})
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                print(f"{source.name}, cell {number}: {output.text.rstrip()}", file=sys.stderr)
            elif output.output_type == "error":  # the one error that papermill lets pass
                raise ReproError(f"{source}: cell {cell.id} exits; a notebook must run to its end; remove the exit")
            elif output.output_type == "stream":
                output.text = _without_paths(output.text, root)
            else:
                data = output.data
                data.update({mime: _without_paths(data[mime], root) for mime in data if mime.startswith("text/")})
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def _without_paths(text: str, root: Path) -> str:
    """``text`` with paths relative to the repository, and the environment's folder named as such."""
    return text.replace(sys.prefix, "<environment>").replace(f"{root.resolve()}/", "")


# The page ------------------------------------------------------------------------------------------------


def html_body(notebook: NotebookNode, source: Path) -> str:
    """The cells of a notebook as HTML: no script, nothing fetched from elsewhere, equations as MathML.

    Raises:
        ReproError: an equation that has no MathML form.
    """

    def markdown(text: str) -> str:
        return MarkdownWithMath(renderer=_MathMLRenderer(source)).render(text)

    exporter = HTMLExporter(
        template_name="basic",
        raw_template=_FOLDED,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        filters={"markdown2html": markdown},
    )
    body, _ = exporter.from_notebook_node(notebook)
    return body.strip()


def html_page(notebook: NotebookNode, subtitle: str, source: Path) -> str:
    """A notebook as one HTML file that needs nothing beside it.

    Raises:
        ReproError: an equation that has no MathML form.
    """
    body = html_body(notebook, source)
    headings = (re.match(r"# (.+)", cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    title = next((found.group(1) for found in headings if found), source.stem)
    light, dark = (";".join(f"--{key}:{value}" for key, value in THEMES[name].items()) for name in ("light", "dark"))
    code_light, code_dark = (
        HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark")
    )
    return f"""<!DOCTYPE html>
<html lang="en-GB">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<style>
:root{{{light}}}
{code_light}
@media(prefers-color-scheme:dark){{
:root{{{dark}}}
{code_dark}
}}
{_CSS}</style>
</head>
<body>
<main>
<p class="subtitle">{html.escape(subtitle)}</p>
{body}
</main>
</body>
</html>
"""


#: Cells tagged ``hide-input``, as Jupyter Book calls them, show their output and fold their code.
_FOLDED = """{% extends 'basic/index.html.j2' %}
{% block input %}{% if 'hide-input' in cell.metadata.get('tags', []) -%}
<details><summary>code</summary>{{ super() }}</details>
{%- else %}{{ super() }}{% endif %}{% endblock input %}
"""


class _MathMLRenderer(IPythonRenderer):
    """Markdown to HTML, with equations written out where nbconvert leaves them to a script from elsewhere."""

    def __init__(self, source: Path):
        super().__init__(escape=False)
        self.source = source

    def block_math(self, body: str) -> str:
        """``$$...$$``"""
        return f'<div class="equation">{self._mathml(body, "block")}</div>\n'

    def inline_math(self, body: str) -> str:
        """``$...$``"""
        return self._mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        """``\\begin{name}...\\end{name}`` outside of dollars."""
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")

    def _mathml(self, tex: str, display: str) -> str:
        tex = " ".join(tex.split())
        try:
            mathml = convert(tex, display=display)
            ElementTree.fromstring(mathml)
        except Exception as error:  # the converter has a class for every way in which TeX can be wrong
            raise ReproError(f"{self.source}: equation {tex!r} has no MathML form; write it in simpler TeX") from error
        if "\\" in mathml:  # a command that the converter passes through
            raise ReproError(f"{self.source}: equation {tex!r} has a command without MathML form; write it without")
        return mathml


_CSS = """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:1rem/1.55 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:66rem;margin:0 auto;padding:1rem 1rem 4rem}
:is(p,ul,ol,blockquote,.equation){max-width:48rem}
h1{font-size:1.7rem;line-height:1.25;margin:.5rem 0 1rem}
h2{font-size:1.3rem;margin:2.75rem 0 .75rem}
h3{font-size:1.05rem;margin:1.75rem 0 .5rem}
a{color:var(--link)}
a:focus-visible,summary:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.anchor-link{margin-left:.4rem;text-decoration:none;opacity:0}
:is(h1,h2,h3):hover .anchor-link,.anchor-link:focus{opacity:1}
.subtitle{color:var(--muted);font-size:.875rem;margin:0}
blockquote{margin:.75rem 0;padding:.1rem 1rem;border-left:4px solid var(--line);background:var(--card)}
code,pre{font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;font-size:.85rem}
:not(pre)>code{background:var(--card);padding:.1rem .25rem;border-radius:.25rem}
pre{margin:0;padding:.6rem .8rem;overflow-x:auto;line-height:1.45}
/* on --card, Pygments' violet has less than 4.5:1 */
.highlight{background:var(--page);border:1px solid var(--line);border-radius:.35rem;margin:.75rem 0}
.output_stream pre,.output_text pre{border-left:4px solid var(--line);margin:.5rem 0}
.output_markdown,.equation{overflow:auto hidden}
.equation{padding:.25rem 0 .5rem}
math{font-family:"STIX Two Math","Latin Modern Math","Cambria Math",math;font-size:1.1em}
summary{cursor:pointer;color:var(--muted);font-size:.875rem}
img{display:block;max-width:100%;height:auto;background:#fff;border-radius:.25rem;margin:.75rem 0}
table{border-collapse:collapse;font-size:.875rem;margin:.5rem 0}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
thead th{background:var(--card);border-bottom:2px solid var(--line)}
"""


# What cells use ------------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """What a notebook reads: valid records, planned (run, seed) without one, and verdicts by id of their statement."""

    records: list[Record]
    missing: list[tuple[str, int]]
    stale: list[tuple[str, int]]
    verdicts: dict[str, dict[str, Any]]

    def seeds(self, run: str) -> list[Record]:
        """The records of ``run``, one per seed."""
        return [record for record in self.records if record.run == run]


def load(source: str, profile: str, root: Path = Path()) -> Loaded:
    """Valid records of all planned runs of a source, and the verdict on each of its statements.

    Grids and controls may be missing.

    Raises:
        ReproError: an unknown source or profile, a damaged record, or an artefact's run without any valid record.
    """
    found = store.current(source, profile, root)
    artefacts = [item for item in ARTEFACTS.values() if (item.source, item.group) == (source, "artefact")]
    needed = {run for artefact in artefacts for run in artefact.runs}
    if missing := sorted(needed - {record.run for record in found.records}):
        raise ReproError(
            f"no current record of {', '.join(missing)} at profile {profile}; at least one seed of each was expected; "
            f"run `python -m repro sweep --source {source} --profile {profile}`"
        )
    statements = [item for item in claims.load_published(root).statements if item.source == source]
    verdicts = claims.judge_all(statements, found.records, profile=profile, missing=found.missing, stale=found.stale)
    return Loaded(found.records, found.missing, found.stale, {verdict["id"]: verdict for verdict in verdicts})


def show(figure: Figure, alt: str) -> Image:
    """A figure as a picture of stable bytes, with the text that a reader who cannot see it gets instead."""
    return Image(style.to_bytes(figure, "png", ""), alt=alt, width=round(100 * figure.get_figwidth()))


def drawn(artefact_id: str, records: Iterable[Record], alt: str) -> Image | Markdown:
    """A figure with the text ``alt``, or a table; of controls without records a line that says which are missing.

    Raises:
        ReproError: records of something else than a control are missing, or records are doubled or of mixed profiles.
    """
    try:
        if ARTEFACTS[artefact_id].kind == "table":
            return Markdown(report.table(artefact_id, records).markdown())
        return show(report.figure(artefact_id, records), alt)
    except ReproError as missing:
        if ARTEFACTS[artefact_id].group != "control":
            raise
        return Markdown(f"Not drawn: {missing}.")


def percent(fractions: Sequence[float]) -> str:
    """Mean over seeds with its 95 % interval, in percent: ``61.2 [60.1, 62.3]``."""
    if not fractions:
        return "–"
    mean, low, high = (words.number(100 * value, 1) for value in select.interval(fractions))
    return f"{mean} [{low}, {high}]" if len(fractions) > 1 else f"{mean} (one seed)"


def code_of(function: Callable[..., Any]) -> Markdown:
    """The source code of ``function``."""
    return Markdown(f"```python\n{inspect.getsource(function)}```")


def statement(verdict: Mapping[str, Any]) -> Markdown:
    """A statement of a source, and what our runs say about it (an item of ``claims.judge_all``)."""
    n = words.counted(verdict["n"], verdict.get("repetitions"))
    lines = [
        f"**{verdict['id']}** ({verdict['kind']}). {verdict['says']}",
        f"**Ours:** {verdict['ours'] or 'no number yet'}.",
        f"**Verdict:** {verdict['verdict']} (n = {n}); {verdict['reason']}.",
    ]
    return Markdown("\n>\n".join(f"> {line}" for line in lines))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table; cells are turned into text."""
    lines = [header, ["---"] * len(header), *rows]
    return Markdown(
        "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
    )


def verdict_table(verdicts: Iterable[Mapping[str, Any]]) -> Markdown:
    """All statements of a source with our numbers and verdicts."""
    rows = [
        [f"**{v['id']}** {v['says']}", v["ours"] or "–", v["verdict"], words.counted(v["n"], v.get("repetitions"))]
        for v in verdicts
    ]
    return table(["statement", "ours", "verdict", "n"], rows)
