"""Plots of benchmark results: roofline, speed-ups over the baselines, tokens/s by batch size, two files compared."""

from pathlib import Path
from typing import Any

from albert_fast.figures import save_figure, subplots
from bench.result_files import File, Key, peer, speed, timed_rows


def draw(document: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    """Draw every plot that the rows of one result file allow; returns the PNG files."""
    if document["bench"] == "pretrain":
        return [_pretrain_bars(document, folder / f"{stem}-tokens-per-second.png")]
    rows, drawn = timed_rows(document), []
    if any(row.get("flops") for row in rows.values()):
        drawn.append(_roofline(document, rows, folder / f"{stem}-roofline.png"))
    if rows:
        drawn.append(_bars(document, rows, folder / f"{stem}-peers.png"))
    if any("tokens_per_second" in row for row in rows.values()):
        drawn.append(_tokens_by_batch(document, rows, folder / f"{stem}-tokens-per-second.png"))
    return drawn


def _device(document: dict[str, Any]) -> str:
    m = document["machine"]
    return m["device"] + (f", {m['threads']} threads, small shapes" if m["kind"] == "cpu" else "")


def _roofline(document: dict[str, Any], rows: dict[Key, dict[str, Any]], file: Path) -> Path:
    """FLOP/s against FLOPs per byte, with the roof given by the measured copy bandwidth and matrix rate."""
    figure, axes = subplots()
    copy, matrix = document["rates"]["copy"], document["rates"]["matrix"]
    placed = [r for r in rows.values() if r.get("flops") and r.get("bytes")]
    intensities = [r["flops"] / r["bytes"] for r in placed] or [matrix / copy]
    low, high = min(*intensities, matrix / copy) / 3, max(*intensities, matrix / copy) * 3
    axes.plot([low, matrix / copy, high], [low * copy / 1e9, matrix / 1e9, matrix / 1e9], "k-")
    markers = {"torch": "o", "compile": "s", "ours": "*", "liger": "^"}
    colours = {op: f"C{i}" for i, op in enumerate(dict.fromkeys(r["op"] for r in placed))}
    for r in placed:
        marker, place = markers.get(r["implementation"], "x"), (r["flops"] / r["bytes"], r["flops_per_second"] / 1e9)
        size = 11 if marker == "*" else 6
        axes.plot(*place, marker, color=colours[r["op"]], markersize=size, alpha=0.8)
    handles = [*axes.plot([], [], "k-", label="measured roof")]
    handles += [axes.plot([], [], "o", color=colour, label=op)[0] for op, colour in colours.items()]
    handles += [axes.plot([], [], marker, color="grey", label=by)[0] for by, marker in markers.items()]
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte (minimum of each)", ylabel="GFLOP/s")
    axes.set_title(f"Roofline: {_device(document)}")
    axes.legend(handles=handles, fontsize=7, ncols=2)
    axes.grid(alpha=0.3, which="both")
    return save_figure(figure, file)


def _bars(document: dict[str, Any], rows: dict[Key, dict[str, Any]], file: Path) -> Path:
    """Speed of each implementation by group, relative to eager torch or HuggingFace; quartiles as error bars."""
    groups: dict[tuple, list[Key]] = {}
    for key in rows:
        groups.setdefault(key[:4], []).append(key)
    names = list(dict.fromkeys(key[4] for key in rows))
    figure, axes = subplots(width=9.0, height=1.5 + 0.24 * len(rows))
    place, ticks, labels = 0.0, [], []
    for group, members in groups.items():
        base = peer(rows, members[0])
        if base is None:
            continue
        first = place
        for key in members:
            low, median, high = speed(rows[key], base)
            noise = [[max(median - low, 0)], [max(high - median, 0)]]
            axes.barh(place, median, color=f"C{names.index(key[4])}", xerr=noise)
            place += 1
        ticks.append((first + place - 1) / 2)
        labels.append(" ".join(str(part) for part in group if part))
        place += 0.8
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="k", linewidth=0.8)
    axes.set(xlabel="speed relative to eager torch or HuggingFace", title=_device(document))
    axes.legend(handles=[axes.barh(0, 0, color=f"C{i}", label=name) for i, name in enumerate(names)], fontsize=7)
    return save_figure(figure, file)


def _tokens_by_batch(document: dict[str, Any], rows: dict[Key, dict[str, Any]], file: Path) -> Path:
    figure, axes = subplots()
    lines: dict[str, list[tuple[int, float, float, float]]] = {}
    for (op, _, preset, tokens, by), row in rows.items():
        if "tokens_per_second" in row:
            ends = (tokens / row["q3_seconds"], tokens / row["q1_seconds"])
            lines.setdefault(f"{preset} {op}, {by}", []).append((tokens, row["tokens_per_second"], *ends))
    for label, points in lines.items():
        x, y, low, high = zip(*sorted(points), strict=True)
        noise = [[max(b - a, 0) for a, b in zip(*ends, strict=True)] for ends in ((low, y), (y, high))]
        axes.errorbar(x, y, yerr=noise, marker="o", capsize=3, label=label)
    axes.set(xscale="log", xlabel="tokens per micro-batch", ylabel="tokens/s", title=_device(document))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return save_figure(figure, file)


def _pretrain_bars(document: dict[str, Any], file: Path) -> Path:
    rows = document["rows"]
    figure, axes = subplots()
    for i, row in enumerate(rows):
        theirs = row["huggingface_tokens_per_second"]
        axes.bar(i - 0.2, 1.0, width=0.4, color="C0", label="HuggingFace" if i == 0 else None)
        low, high = row["ratio_range"]
        noise = [[row["ratio"] - low], [high - row["ratio"]]]
        axes.bar(i + 0.2, row["ratio"], width=0.4, color="C1", yerr=noise, capsize=3, label="ours" if i == 0 else None)
        axes.annotate(f"{theirs:,.0f}/s", (i - 0.2, 1.02), ha="center", fontsize=7)
        axes.annotate(f"{row['tokens_per_second']:,.0f}/s", (i + 0.2, 0.05), ha="center", fontsize=7)
        if row["target"]:
            axes.plot([i, i + 0.4], [row["target"]] * 2, "k--", linewidth=1, label="target" if i == 0 else None)
    axes.set_xticks(range(len(rows)), [f"{r['preset']}\n{r['text']}, S={r['max_seq_length']}" for r in rows])
    m = document["machine"]
    axes.set(ylabel="real tokens/s, HuggingFace = 1", title=f"Pretraining: {m['device']}, {m['threads']} threads")
    axes.legend()
    return save_figure(figure, file)


def draw_regression(first_file: File, second_file: File, folder: Path) -> Path:
    """Speed-up of every row that both files have, with the range given by the quartiles of both as error bars."""
    (before_file, before), (after_file, after) = first_file, second_file
    before_name, after_name = before_file.stem, after_file.stem
    first, second = timed_rows(before), timed_rows(after)
    common = [key for key in first if key in second]
    figure, axes = subplots(width=9.0, height=1.5 + 0.22 * max(len(common), 1))
    for place, key in enumerate(common):
        a, b = first[key], second[key]
        speed = a["median_seconds"] / b["median_seconds"]
        low, high = a["q1_seconds"] / b["q3_seconds"], a["q3_seconds"] / b["q1_seconds"]
        noise = [[max(speed - low, 0)], [max(high - speed, 0)]]
        axes.errorbar(speed, place, xerr=noise, fmt="o", color="C1", ecolor="grey", capsize=3)
    axes.set_yticks(range(len(common)), [" ".join(str(part) for part in key if part) for key in common], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="k", linewidth=0.8)
    axes.set(xlabel=f"speed of {after_name} relative to {before_name}", xscale="log")
    return save_figure(figure, folder / f"{before_name}-against-{after_name}.png")
