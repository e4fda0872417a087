"""Notebooks: executed by papermill into files that depend on nothing but code and records, and what their cells use.

``execute`` writes the executed notebook, and ``html_body`` makes HTML of it that needs no network, with equations as
MathML and pictures inside, for the book. Executed twice, it is the same bytes: no times, random ids or absolute paths.
"""

from __future__ import annotations

import ast
import inspect
import os
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

from repro import report
from repro.errors import ReproError
from repro.files import root_around, write_atomic
from repro.registry import labels, store
from repro.report import ARTEFACTS, intervals, layout, pilot
from repro.results.records import Record
from repro.verdicts import judge

CELL_SECONDS = 600  # a cell that runs longer hangs: cells train on toy data only


# Executing -----------------------------------------------------------------------------------------------


def execute(source: Path, out: Path, parameters: Mapping[str, Any], root: Path = Path()) -> None:
    """Run the notebook ``source`` and write it with its outputs to ``out``.

    What cells write to stderr (warnings, progress bars) goes to our stderr and not into the file, because it holds
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
    html_body(executed, source)  # an equation that the book cannot show is said here, where it can be mended
    write_atomic(out, nbformat.writes(executed).rstrip("\n") + "\n")


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


# HTML ------------------------------------------------------------------------------------------------


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


def load(source: str, profile: str, root: Path | None = None) -> Loaded:
    """Valid records of all planned runs of a source, and the verdict on each of its statements.

    Grids and controls may be missing. Without a ``root`` the one around the working folder becomes the working folder:
    Jupyter starts a kernel in the folder of its notebook, and what cells read is named from the root.

    Raises:
        ReproError: an unknown source or profile, a damaged record, an artefact's run without any valid record, or a
            working folder outside of any checkout.
    """
    if root is None:
        os.chdir(root_around(Path.cwd()))
        root = Path()
    found = store.current(source, profile, root)
    artefacts = [item for item in ARTEFACTS.values() if (item.source, item.group) == (source, "artefact")]
    needed = {run for artefact in artefacts for run in artefact.runs}
    if missing := sorted(needed - {record.run for record in found.records}):
        raise ReproError(
            f"no current record of {', '.join(missing)} at profile {profile}; at least one seed of each was expected; "
            f"run `python -m repro sweep --source {source} --profile {profile}`"
        )
    statements = [item for item in judge.load_published(root).statements if item.source == source]
    verdicts = pilot.judge_all(statements, profile, root)
    return Loaded(found.records, found.missing, found.stale, {verdict["id"]: verdict for verdict in verdicts})


def show(figure: Figure, alt: str) -> Image:
    """A figure as a picture of stable bytes, with the text that a reader who cannot see it gets instead."""
    return Image(layout.to_bytes(figure, "png", ""), alt=alt, width=round(100 * figure.get_figwidth()))


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
    """Mean over seeds of a share with its 95 % interval, in percent and cut at 0 and 100: ``61.2 [60.1, 62.3]``."""
    return _in_percent(fractions, intervals.bounded)


def signed_percent(fractions: Sequence[float]) -> str:
    """``percent`` of what may lie below 0 or above 100, such as a difference: ``-1.2 [-2.5, 0.1]``."""
    return _in_percent(fractions, intervals.interval)


def _in_percent(fractions: Sequence[float], of: intervals.Interval) -> str:
    return intervals.with_interval([100 * each for each in fractions], of=of) if fractions else "–"


def code_of(function: Callable[..., Any]) -> Markdown:
    """The source code of ``function``."""
    return Markdown(f"```python\n{inspect.getsource(function)}```")


def statement(verdict: Mapping[str, Any]) -> Markdown:
    """A statement of a source, and what our runs say about it (an item of ``claims.judge_all``)."""
    n = labels.counted(verdict["n"], verdict.get("repetitions"))
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
        [f"**{v['id']}** {v['says']}", v["ours"] or "–", v["verdict"], labels.counted(v["n"], v.get("repetitions"))]
        for v in verdicts
    ]
    return table(["statement", "ours", "verdict", "n"], rows)
