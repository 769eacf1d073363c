"""`python -m bench.report FILES`: turns result files into Markdown tables and plots; compares two files."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_fast import cli
from albert_fast.options import Options, UserError, note, option
from albert_fast.text_tables import markdown_lines
from bench import plots
from bench.result_files import File, peer, read_results, speed, timed_rows


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """Options of `python -m bench.report`."""

    files: tuple[str, ...] = option(
        help="result files of `make bench` or bench_pretrain; two files of `make bench` are compared", positional=True
    )
    output: str | None = option(
        None, "folder for report.md and PNG plots (standard output, without plots)", metavar="DIR"
    )


def report(options: ReportOptions) -> None:
    """Turn result files of `make bench` and `python -m bench.bench_pretrain` into a Markdown table and PNG plots.

    Two files of `make bench` are compared row by row: the ratio of their medians, and whether it is more than noise.
    """
    documents = []
    for file in map(Path, options.files):
        document = read_results(file)
        if document.get("bench") in ("ops", "pretrain") and {"machine", "rows"} <= document.keys():
            documents.append((file, document))
        else:
            note(f"{file} has no results of `make bench` or bench_pretrain; skipped")
    if not documents:
        raise UserError("no file has results of `make bench` or bench_pretrain; give one that does")
    ops = [(file, document) for file, document in documents if document["bench"] == "ops"]
    parts = [op_table(file, document) for file, document in ops]
    parts += [pretrain_table(file, document) for file, document in documents if document["bench"] == "pretrain"]
    if len(ops) == 2:
        parts.append(side_by_side(ops[0], ops[1]))
    text = "\n".join(parts)
    if options.output is None:
        print(text)
        return
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    drawn = [plot for file, document in documents for plot in plots.draw(document, folder, file.stem)]
    if len(ops) == 2:
        drawn.append(plots.draw_regression(ops[0], ops[1], folder))
    note(f"wrote {folder / 'report.md'} and {', '.join(path.name for path in drawn)}")


def op_table(file: Path, document: dict[str, Any]) -> str:
    rows = timed_rows(document)
    head = ("op", "direction", "model", "tokens", "by", "median ms", "quartiles", "against eager", "host ms", "GB/s",
            "of copy", "GFLOP/s", "of matrix", "MFU")  # fmt: skip
    cells = []
    for key, row in rows.items():
        base = peer(rows, key)
        ratio = "" if base is None or base is row else f"{speed(row, base)[1]:.2f}x"
        quartiles = f"{1000 * row['q1_seconds']:.3f} to {1000 * row['q3_seconds']:.3f}"
        cells.append((
            row["op"], row["direction"], row["preset"], f"{row['tokens']:,}" if row["tokens"] else "",
            f"{row['implementation']} ({row['runs']})" if row.get("runs") else row["implementation"],
            f"{1000 * row['median_seconds']:.3f}", quartiles, ratio,
            f"{1000 * row['host_seconds']:.3f}" if "host_seconds" in row else "",
            _number(row.get("gb_per_second")), _percent(row.get("copy_bandwidth_share")),
            _number(row.get("flops_per_second"), 1e9), _percent(row.get("matrix_rate_share")),
            _percent(row.get("mfu")),
        ))  # fmt: skip
    rates = document["rates"]
    measured = (
        f"Measured in the same run: copy {rates['copy'] / 1e9:,.1f} GB/s (read and written), large torch.mm "
        f"{rates['matrix'] / 1e9:,.1f} GFLOP/s."
    )
    lines = [heading(file, document), "", measured, "", *markdown_lines(head, "lllllrrrrrrrrr", cells)]
    lines += [f"\n{row['op']}: {row['failed']}" for row in document["rows"] if "failed" in row]
    return "\n".join(lines) + "\n"


def pretrain_table(file: Path, document: dict[str, Any]) -> str:
    head = ("text", "model", "S", "tokens", "ours, tokens/s", "HuggingFace, tokens/s", "ratio", "range", "target",
            "of matrix rate", "padding")  # fmt: skip
    cells = []
    for row in document["rows"]:
        low, high = row["ratio_range"]
        cells.append((
            row["text"], row["preset"], str(row["max_seq_length"]), f"{row['tokens_per_batch']:,}",
            f"{row['tokens_per_second']:,.0f}", f"{row['huggingface_tokens_per_second']:,.0f}",
            f"**{row['ratio']:.2f}x**", f"{low:.2f} to {high:.2f}", f"{row['target']}x" if row["target"] else "",
            _percent(row.get("matrix_rate_share")), _percent(row.get("padded_share")),
        ))  # fmt: skip
    return "\n".join([heading(file, document), "", *markdown_lines(head, "llrrrrrrrrr", cells)]) + "\n"


def side_by_side(first_file: File, second_file: File) -> str:
    """Compares the rows that both files have; a difference counts only if the interquartile ranges do not overlap."""
    (before_file, before), (after_file, after) = first_file, second_file
    first, second = timed_rows(before), timed_rows(after)
    common = [key for key in first if key in second]
    lines = [f"## {before_file.name} against {after_file.name}", ""]
    if before["machine"]["device"] != after["machine"]["device"]:
        lines += ["The devices differ: this compares machines, not versions.", ""]
    cells = []
    for key in common:
        a, b = first[key], second[key]
        times = f"{1000 * a['median_seconds']:.3f}", f"{1000 * b['median_seconds']:.3f}"
        slower, faster = b["q1_seconds"] > a["q3_seconds"], b["q3_seconds"] < a["q1_seconds"]
        verdict = "slower" if slower else "faster" if faster else "noise"
        cells.append([*map(str, key), *times, f"{a['median_seconds'] / b['median_seconds']:.2f}x", verdict])
    head = ("op", "direction", "model", "tokens", "by", "before ms", "after ms", "speed-up", "")
    return "\n".join([*lines, *markdown_lines(head, "lllllrrrl", cells)]) + "\n"


def heading(file: Path, document: dict[str, Any]) -> str:
    m = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    threads = f", {m['threads']} threads" if m["kind"] == "cpu" else f", driver {m['driver']}"
    is_small = m["kind"] == "cpu" and document["bench"] == "ops"
    small = " CPU runs use small shapes, which partly stay in caches." if is_small else ""
    return f"## {m['device']}{threads}\n\n{file.name}: {m['date']}, commit {m['git']}; {versions}.{small}"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "" if not value else f"{value / unit:,.1f}"


def _percent(value: float | None) -> str:
    return "" if not value else f"{100 * value:.0f}%"


if __name__ == "__main__":
    cli.run("python -m bench.report", lambda: report, sys.argv[1:])
