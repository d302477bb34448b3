#!/usr/bin/env python3
"""Turns what scripts/bench.sh measured into a Markdown table and checks the bars.

Reads RAW/ROUND/MODE/: ping (output of ping), NAME.json (iperf3) and NAME.ticks (CPU time of the daemons meanwhile) for
each throughput NAME, resident (peak kB of each daemon). Ratios are taken within a round; a cell shows the median over
the rounds and, in parentheses, the range.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import sys

TITLES = {
    "bare": "bare veth",
    "classic": "C0, classic loop (TCP, tun)",
    "tcp-tun": "simpletun TCP, tun",
    "tcp-tap": "simpletun TCP, tap",
    "udp-tun": "simpletun UDP, tun",
    "udp-tap": "simpletun UDP, tap",
    "socat-udp": "socat UDP, tun",
}
OURS = ["tcp-tun", "tcp-tap", "udp-tun", "udp-tap"]
BEGIN, END = "<!-- bench.sh: begin -->", "<!-- bench.sh: end -->"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("raw", type=pathlib.Path)
    parser.add_argument("--congestion", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--write", default="")
    arguments = parser.parse_args()

    rounds = [
        {mode.name: measured(mode) for mode in one.iterdir()}
        for one in sorted(arguments.raw.iterdir(), key=lambda path: int(path.name))
    ]
    lines, passed = bars(rounds)
    text = "\n".join([*heading(arguments, len(rounds)), "", *table(rounds), "", *lines])
    print(text)
    if arguments.write:
        write(pathlib.Path(arguments.write), text)
    sys.exit(not passed)


def measured(directory):
    """The figures of one mode in one round, by column."""
    figures = {}
    times = sorted(float(time) * 1000 for time in re.findall(r"time=([\d.]+)", (directory / "ping").read_text()))
    figures["RTT p50 µs"] = times[len(times) // 2]
    figures["RTT p99 µs"] = times[len(times) * 99 // 100]
    resident = [int(size) / 1024 for size in (directory / "resident").read_text().split()]
    if resident:
        figures["RSS MiB"] = max(resident)
    for result in directory.glob("*.json"):
        received = json.loads(result.read_text())["end"]["sum_received"]
        figures[result.stem] = received["bits_per_second"] / 1e9
        if resident:
            seconds = int(result.with_suffix(".ticks").read_text()) / os.sysconf("SC_CLK_TCK")
            figures[f"{result.stem} CPU s/GB"] = seconds / (received["bytes"] / 1e9)
    return figures


def series(rounds, mode, column):
    return [one[mode][column] for one in rounds if column in one[mode]]


def ratios(rounds, mode, column, to):
    return [one[mode][column] / one[to][column] for one in rounds]


def cell(values):
    if not values:
        return "–"
    middle = statistics.median(values)
    digits = next((digits for digits, below in ((3, 0.1), (2, 10), (1, 100)) if middle < below), 0)
    median, low, high = (f"{value:.{digits}f}" for value in (middle, min(values), max(values)))
    return median if low == high else f"{median} ({low}–{high})"


def table(rounds):
    columns = [
        ("1 stream Gbit/s", lambda mode: series(rounds, mode, "one")),
        ("÷ C0", lambda mode: ratios(rounds, mode, "one", "classic")),
        ("÷ bare", lambda mode: ratios(rounds, mode, "one", "bare")),
        ("CPU s/GB", lambda mode: series(rounds, mode, "one CPU s/GB")),
    ]
    if "four" in rounds[0]["bare"]:
        columns += [
            ("4 streams Gbit/s", lambda mode: series(rounds, mode, "four")),
            ("reverse Gbit/s", lambda mode: series(rounds, mode, "reverse")),
        ]
    columns += [
        (column, lambda mode, column=column: series(rounds, mode, column))
        for column in ("RTT p50 µs", "RTT p99 µs", "RSS MiB")
    ]
    yield "| " + " | ".join(["mode", *(title for title, _ in columns)]) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for mode, title in TITLES.items():
        yield "| " + " | ".join([title, *(cell(values(mode)) for _, values in columns)]) + " |"


def heading(arguments, count):
    processor = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    yield f"{os.cpu_count()} × {processor[1] if processor else platform.machine()}, Linux {platform.release()},"
    yield f"commit {arguments.commit}; TCP congestion control {arguments.congestion}, inside and outside;"
    yield f"medians (and ranges) of {count} interleaved rounds, ratios within a round. CPU is that of both daemons, RTT is"
    yield "that of the idle link, RSS is the larger daemon's peak. MTU 1500 over TCP; over UDP what fits a datagram."


def bars(rounds):
    """The lines that say which bars hold, and whether all do."""
    throughput = statistics.median(ratios(rounds, "tcp-tun", "one", "classic"))
    checks = [("one TCP stream through TCP, tun ≥ 2.3 × C0", f"{throughput:.2f}", throughput >= 2.3)]
    for mode in ("tcp-tun", "udp-tun"):
        ratio = statistics.median(ratios(rounds, mode, "RTT p50 µs", "socat-udp"))
        checks.append((f"idle RTT p50, {TITLES[mode]} ≤ 1.2 × socat UDP", f"{ratio:.2f}", ratio <= 1.2))
    resident = max(max(series(rounds, mode, "RSS MiB")) for mode in OURS)
    checks.append(("resident memory of a daemon < 16 MiB", f"{resident:.1f}", resident < 16))
    lines = ["| bar | measured | |", "|---|---|---|"]
    lines += [f"| {bar} | {value} | {'pass' if holds else 'FAIL'} |" for bar, value, holds in checks]
    return lines, all(holds for _, _, holds in checks)


def write(path, text):
    """Puts the text between the marks in the file, keeping what is around them."""
    block = f"{BEGIN}\n{text}\n{END}"
    before, after = "# Benchmarks\n\nMade by `scripts/bench.sh --write docs/BENCHMARKS.md`.\n\n", "\n"
    if path.exists():
        old = path.read_text()
        if BEGIN in old and END in old:
            before, after = old[: old.index(BEGIN)], old[old.index(END) + len(END) :]
        else:
            before = old.rstrip("\n") + "\n\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(before + block + after)


main()
