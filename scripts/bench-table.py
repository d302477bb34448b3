#!/usr/bin/env python3
"""Turns what scripts/bench.sh measured into Markdown tables, a plot, and a verdict on the bars.

Reads RESULTS/rounds/ROUND/MODE/: ping and loaded-ping (output of ping), NAME.json (iperf3), flood and offered (what the
packet counter said), NAME.ticks (CPU time of the daemons meanwhile), resident (peak kB of each daemon), start (time to
the first answer, in hundredths of a second), failed (the mode could not be measured); and RESULTS/notes and versions.
Ratios are taken within a round; a cell shows the median over the rounds and, in parentheses, the range.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
from html import escape

YARDSTICKS = {
    "bare": "bare veth",
    "vxlan": "kernel VXLAN",
    "classic": "C0: classic loop (TCP, tun)",
}
OURS = {
    "tcp-tun": "TCP, tun",
    "tcp-tap": "TCP, tap",
    "tcp-tun-bbr": "TCP, tun, bbr",
    "tcp-tap-bbr": "TCP, tap, bbr",
    "udp-tun": "UDP, tun",
    "udp-tap": "UDP, tap",
    "tcp-65000": "TCP, tun, MTU 65,000",
}
SECURE = {
    "secure-tcp": "TCP, tun, AES",
    "secure-tcp-tap": "TCP, tap, AES",
    "secure-tcp-bbr": "TCP, tun, AES, bbr",
    "secure-udp": "UDP, tun, AES",
    "secure-udp-tap": "UDP, tap, AES",
    "secure-tcp-chacha": "TCP, tun, ChaCha20",
    "secure-udp-chacha": "UDP, tun, ChaCha20",
}
MIXED = {
    "c1": "C1: simpletun TCP, tun, no offload",
    "c1-ours": "C1 → simpletun",
    "ours-c1": "simpletun → C1",
    "classic-ours": "C0 → simpletun",
    "ours-classic": "simpletun → C0",
}
CABLE = {
    "cable-bare": "bare veth, no cable offload",
    "cable-tcp-tun": "simpletun TCP, tun, no cable offload",
    "cable-udp-tun": "simpletun UDP, tun, no cable offload",
}
PEERS = {
    "socat-udp": "socat, UDP",
    "vtun-tcp": "vtun, TCP",
    "vtun-udp": "vtun, UDP",
    "openvpn-tcp": "openvpn, TCP (AES-256-CBC)",
    "openvpn-udp": "openvpn, UDP (AES-256-CBC)",
    "tinc": "tinc, UDP (no cipher)",
    "fastd": "fastd, UDP (null)",
    "quicktun": "quicktun, UDP (raw)",
    "wireguard-go": "wireguard-go (encrypted)",
}
TITLES = YARDSTICKS | {mode: f"simpletun {title}" for mode, title in (OURS | SECURE).items()} | MIXED | CABLE | PEERS
PLAIN = ["tcp-tun", "tcp-tap", "udp-tun", "udp-tap"]
# Delay beside a transfer: at full speed, and behind a bottleneck with one stream and with four.
LOADED = ["loaded", "slow", "slow-four"]
BEGIN, END = "<!-- bench.sh: begin -->", "<!-- bench.sh: end -->"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--congestion", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--write", default="")
    arguments = parser.parse_args()

    rounds = Rounds(arguments.results / "rounds")
    file = pathlib.Path(arguments.write) if arguments.write else None
    picture = file and file.with_name(file.stem.lower() + ".svg")
    text = "\n".join(report(rounds, arguments, picture))
    print(text)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text(plot(rounds))
        write(file, text)


class Rounds:
    """The figures by round, mode and column; what was not measured is absent."""

    def __init__(self, directory):
        numbered = sorted(directory.iterdir(), key=lambda path: int(path.name))
        self.rounds = [{mode.name: measured(mode) for mode in one.iterdir()} for one in numbered]
        failed = [mark.parent for mark in sorted(directory.glob("*/*/failed"))]
        self.failed = [f"{TITLES[mode.name]} in round {mode.parent.name}" for mode in failed]
        present = {mode for one in self.rounds for mode in one}
        self.modes = [mode for mode in TITLES if mode in present]

    def __len__(self):
        return len(self.rounds)

    def series(self, mode, column):
        return [one[mode][column] for one in self.rounds if column in one.get(mode, {})]

    def ratios(self, mode, column, to_mode, to_column=None):
        to_column = to_column or column
        return [
            one[mode][column] / one[to_mode][to_column]
            for one in self.rounds
            if column in one.get(mode, {}) and one.get(to_mode, {}).get(to_column)
        ]

    def differences(self, mode, column, to_mode):
        return [
            one[mode][column] - one[to_mode][column]
            for one in self.rounds
            if column in one.get(mode, {}) and column in one.get(to_mode, {})
        ]


def measured(directory):
    """The figures of one mode in one round, by column."""
    if (directory / "failed").exists():
        return {}
    figures = {}
    for file, unit, name in (("ping", 1000, "idle"), *((f"{name}-ping", 1, name) for name in LOADED)):
        if times := round_trips(directory / file):
            figures[f"{name} p50"] = times[len(times) // 2] * unit
            figures[f"{name} p99"] = times[len(times) * 99 // 100] * unit
            figures[f"{name} lost"] = lost(directory / file)
    for load in directory.glob("slow*.load"):
        figures[load.stem] = json.loads(load.read_text())["end"]["sum_received"]["bits_per_second"] / 1e6
    if resident := [int(size) / 1024 for size in (directory / "resident").read_text().split()]:
        figures["RSS"] = max(resident)
    if (directory / "start").exists():
        figures["start"] = int((directory / "start").read_text()) * 10

    for result in directory.glob("*.json"):
        end = json.loads(result.read_text())["end"]
        figures[result.stem] = end["sum_received"]["bits_per_second"] / 1e9
        if "sum_received_bidir_reverse" in end:
            figures[f"{result.stem} back"] = end["sum_received_bidir_reverse"]["bits_per_second"] / 1e9
        if resident:
            figures[f"{result.stem} CPU"] = cpu_seconds(result) / (end["sum_received"]["bytes"] / 1e9)

    if (directory / "flood").exists():
        counted = pairs(directory / "flood")
        figures["kpps"] = counted["pps"] / 1000
        if resident and counted["received"]:
            figures["packet CPU"] = cpu_seconds(directory / "flood") / counted["received"] * 1e6
    if (directory / "offered").exists():
        figures["lost"] = pairs(directory / "offered")["lost"]
    return figures


def round_trips(file):
    """The answers of ping in ms, shortest first."""
    text = file.read_text() if file.exists() else ""
    return sorted(float(time) for time in re.findall(r"time=([\d.]+)", text))


def lost(file):
    """How many pings were not answered; the last ones may be under way still."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", file.read_text())
    return int(counts[1]) - int(counts[2])


def cpu_seconds(file):
    return int(file.with_suffix(".ticks").read_text()) / os.sysconf("SC_CLK_TCK")


def pairs(file):
    return {name: float(value) for name, value in re.findall(r"(\w+)=(\S+)", file.read_text())}


def report(rounds, arguments, picture):
    yield from heading(rounds, arguments)
    if picture:
        yield f"\n![One TCP stream and its CPU time by program]({picture.name})"
    yield "\n### One TCP stream\n"
    yield from table(rounds, rounds.modes, ONE_STREAM)
    extra = [mode for mode in rounds.modes if rounds.series(mode, "four")]
    if extra:
        yield "\n### Four streams, the reverse direction, both directions at once\n"
        yield from table(rounds, extra, STREAMS)
        yield "\n### 64-byte UDP packets, and the delay beside one TCP stream\n"
        yield from table(rounds, extra, PACKETS)
        yield "\n### Behind a bottleneck of 200 Mbit/s with a queue of 50 ms: rate, and the delay beside it\n"
        yield from table(rounds, [mode for mode in extra if rounds.series(mode, "slow")], BOTTLENECK)
    yield "\n### Bars\n"
    yield from bars(rounds)
    notes = arguments.results / "notes"
    lines = notes.read_text().splitlines() if notes.exists() else []
    lines += [f"could not be measured: {mode}" for mode in rounds.failed]
    if lines:
        yield ""
        yield from (f"* {line}" for line in lines)


def heading(rounds, arguments):
    processor = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    versions = arguments.results / "versions"
    yield f"{os.cpu_count()} × {processor[1] if processor else platform.machine()}, Linux {platform.release()}, commit"
    yield f"{arguments.commit}. TCP congestion control {arguments.congestion} inside, and outside if not said otherwise."
    yield f"Medians (and ranges) of {len(rounds)} interleaved rounds, ratios within a round. Both ends of the tunnel and"
    yield "of the measurement share the processors. CPU is user and system time of both daemons, RSS the larger daemon's"
    yield "peak, start the time from the start of both daemons to the first answered ping. Inner MTU 1500 over TCP; over"
    yield "UDP what fits a datagram. The cable is a veth pair, which carries TCP super-packets and UDP GSO sends in one"
    yield "piece, as to a network card that has these offloads."
    if "cable-bare" in rounds.modes:
        yield "“No cable offload” is the same cable without them; these rows are divided by its own bare rate."
    if versions.exists():
        yield "Programs: " + ", ".join(versions.read_text().splitlines()) + "."


def bare(mode):
    return "cable-bare" if mode in CABLE else "bare"


def figure(column, digits=None):
    return lambda rounds, mode: cell(rounds.series(mode, column), digits)


def ratio(column, to_mode=None, to_column=None):
    """To another mode (given by name or by function), or to another column of the same mode."""

    def text(rounds, mode):
        to = to_mode(mode) if callable(to_mode) else to_mode or mode
        return cell(rounds.ratios(mode, column, to, to_column))

    return text


def ratio_to_classic(column):
    return lambda rounds, mode: "–" if mode in CABLE else cell(rounds.ratios(mode, column, "classic"))


def total(column):
    def text(rounds, mode):
        values = rounds.series(mode, column)
        return f"{sum(values):.0f}" if values else "–"

    return text


ONE_STREAM = {
    "Gbit/s": figure("one"),
    "÷ C0": ratio_to_classic("one"),
    "÷ bare": ratio("one", bare),
    "CPU s/GB": figure("one CPU"),
    "idle RTT p50 µs": figure("idle p50", 0),
    "p99 µs": figure("idle p99", 0),
    "RSS MiB": figure("RSS", 1),
    "start ms": figure("start", 0),
}
STREAMS = {
    "4 streams Gbit/s": figure("four"),
    "÷ 1 stream": ratio("four", to_column="one"),
    "reverse Gbit/s": figure("reverse"),
    "both: forward": figure("both"),
    "÷ alone": ratio("both", to_column="one"),
    "both: back": figure("both back"),
    "÷ alone ": ratio("both back", to_column="reverse"),
}
PACKETS = {
    "kpackets/s": figure("kpps"),
    "÷ C0": ratio_to_classic("kpps"),
    "CPU µs/packet": figure("packet CPU"),
    "lost of 50,000/s, all rounds": total("lost"),
    "loaded RTT p50 ms": figure("loaded p50"),
    "p99 ms": figure("loaded p99"),
}

BOTTLENECK = {
    "1 stream Mbit/s": figure("slow", 0),
    "RTT p50 ms": figure("slow p50"),
    "p99 ms": figure("slow p99"),
    "lost": total("slow lost"),
    "4 streams Mbit/s": figure("slow-four", 0),
    "RTT p50 ms ": figure("slow-four p50"),
    "p99 ms ": figure("slow-four p99"),
    "lost ": total("slow-four lost"),
}


def table(rounds, modes, columns):
    yield "| mode | " + " | ".join(title.strip() for title in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for mode in modes:
        yield "| " + " | ".join([TITLES[mode], *(text(rounds, mode) for text in columns.values())]) + " |"


def cell(values, digits=None):
    if not values:
        return "–"
    middle = statistics.median(values)
    if digits is None:
        digits = next((digits for digits, below in ((3, 0.1), (2, 10), (1, 100)) if middle < below), 0)
    median, low, high = (f"{value:.{digits}f}" for value in (middle, min(values), max(values)))
    return median if low == high else f"{median} ({low}–{high})"


def bars(rounds):
    """A bar for each row: what it is about, the values by round, how they become one, the bar, the goal if any."""
    rows = []

    def bar(mode, what, values, limit, goal=None, by=statistics.median):
        rows.append((TITLES.get(mode, mode), what, values, limit, goal, by))

    def throughput(mode, to_classic, to_bare=None, cpu=None):
        bar(mode, "1 stream ÷ C0", rounds.ratios(mode, "one", "classic"), *to_classic)
        if to_bare:
            bar(mode, "1 stream ÷ bare", rounds.ratios(mode, "one", "bare"), *to_bare)
        if cpu:
            bar(mode, "CPU s/GB", rounds.series(mode, "one CPU"), *cpu)

    for mode in ("tcp-tun", "tcp-tap"):
        throughput(mode, ("≥ 9", 12), ("≥ 0.40", 0.6), ("≤ 1.1", 0.7))
    for mode in ("tcp-tun-bbr", "tcp-tap-bbr"):
        throughput(mode, ("≥ 7", 9), ("≥ 0.33", 0.45), ("≤ 1.25", 0.9))
    throughput("udp-tun", ("≥ 10", 13), ("≥ 0.45", 0.6), ("≤ 0.95", 0.75))
    throughput("udp-tap", ("≥ 6.5", 10), ("≥ 0.30", 0.5), ("≤ 1.5", 0.9))
    throughput("tcp-65000", ("≥ 15", 19), ("≥ 0.75", 0.9), ("≤ 0.6", 0.45))
    def secure(mode, plain, to_plain, to_bare, cpu):
        if to_plain:
            bar(mode, "1 stream ÷ the same, plain", rounds.ratios(mode, "one", plain), *to_plain)
        bar(mode, "1 stream ÷ bare", rounds.ratios(mode, "one", "bare"), *to_bare)
        bar(mode, "CPU s/GB", rounds.series(mode, "one CPU"), *cpu)

    secure("secure-tcp", "tcp-tun", ("≥ 0.9", 1.1), ("≥ 0.45", 0.65), ("≤ 0.95", 0.7))
    secure("secure-tcp-bbr", None, None, ("≥ 0.36", 0.5), ("≤ 1.25", 0.9))
    secure("secure-udp", "udp-tun", ("≥ 0.72", 0.85), ("≥ 0.35", 0.5), ("≤ 1.5", 1.1))
    secure("secure-tcp-chacha", None, None, ("≥ 0.25",), ("≤ 2.0",))
    secure("secure-udp-chacha", None, None, ("≥ 0.22",), ("≤ 2.4",))
    throughput("c1-ours", ("≥ 5", 6.5))
    throughput("ours-c1", ("≥ 3", 4))
    throughput("classic-ours", ("≥ 1",))
    throughput("ours-classic", ("≥ 1",))

    for mode in ("udp-tun", "udp-tap"):
        bar(mode, "64-byte packets ÷ C0", rounds.ratios(mode, "kpps", "classic"), "≥ 3.5", 4.2)
        bar(mode, "CPU µs/packet", rounds.series(mode, "packet CPU"), "≤ 2.5", 2.0)
    for mode in ("tcp-tun", "tcp-tap"):
        bar(mode, "64-byte packets ÷ C0", rounds.ratios(mode, "kpps", "classic"), "≥ 2", 2.6)
    for mode in PLAIN:
        bar(mode, "idle RTT p50 ÷ C0", rounds.ratios(mode, "idle p50", "classic"), "≤ 1.1")
    for mode in PLAIN:
        bar(mode, "lost of 50,000 packets/s, all rounds", rounds.series(mode, "lost"), "≤ 0", by=sum)
    everything = [size for mode in [*OURS, *SECURE, "cable-tcp-tun", "cable-udp-tun"] for size in rounds.series(mode, "RSS")]
    bar("simpletun, all modes", "RSS MiB, largest", everything, "≤ 16", by=max)
    for mode in PLAIN:
        bar(mode, "4 streams ÷ 1 stream", rounds.ratios(mode, "four", mode, "one"), "≥ 0.85")
    for mode in PLAIN:
        bar(mode, "both directions: forward ÷ alone", rounds.ratios(mode, "both", mode, "one"), "≥ 0.3")
        bar(mode, "both directions: back ÷ alone", rounds.ratios(mode, "both back", mode, "reverse"), "≥ 0.3")
    for mode, limit in (("tcp-tun", "≤ 0.9"), ("secure-tcp", "≤ 0.9"), ("udp-tun", "≤ 1.2"), ("secure-udp", "≤ 1.2")):
        bar(mode, "RTT beside one stream, p50 ms", rounds.series(mode, "loaded p50"), limit)
        bar(mode, "the same, p99 ms", rounds.series(mode, "loaded p99"), "≤ 5", 2)
    for mode in ("tcp-tun", "secure-tcp", "udp-tun", "secure-udp"):
        for name, streams in (("slow", "one stream"), ("slow-four", "four streams")):
            added = rounds.differences(mode, f"{name} p50", "bare")
            bar(mode, f"at 200 Mbit/s, RTT beside {streams}, p50 ms above bare", added, "≤ 8")
            bar(mode, f"at 200 Mbit/s, {streams} ÷ bare", rounds.ratios(mode, name, "bare"), "≥ 0.95")
    # Older bars, which the ones above mostly contain.
    bar("tcp-tun", "1 stream ÷ C0", rounds.ratios("tcp-tun", "one", "classic"), "≥ 2.3")
    for mode in ("tcp-tun", "udp-tun"):
        bar(mode, "idle RTT p50 ÷ socat UDP", rounds.ratios(mode, "idle p50", "socat-udp"), "≤ 1.2")
    bar("simpletun, all modes", "RSS MiB, largest", everything, "< 16", by=max)

    yield "| mode | figure | bar | goal | measured | |"
    yield "|---|---|---|---|---|---|"
    for title, what, values, limit, goal, by in rows:
        if not values:
            continue
        value = by(values)
        sign, number = limit.split()
        verdict = "FAIL"
        if holds(value, sign, float(number)):
            verdict = "pass, goal met" if goal is not None and holds(value, sign, goal) else "pass"
        shown = f"{value:.0f}" if by is sum else f"{value:.2f}"
        yield f"| {title} | {what} | {limit} | {'' if goal is None else f'{goal:g}'} | {shown} | {verdict} |"
    if missing := sum(not values for _, _, values, *_ in rows):
        yield f"\n{missing} more bars were not measured in this run."


def holds(value, sign, limit):
    return {"≥": value >= limit, "≤": value <= limit, "<": value < limit}[sign]


# The plot: two panels of horizontal bars that share the names of the modes. Colours of middling brightness and text in
# the reader's own scheme are legible on light and dark pages.

PANELS = [
    ("one", "1 TCP stream, Gbit/s"),
    ("one CPU", "CPU of both daemons, s/GB"),
]
COLOURS = [
    (YARDSTICKS, "yardstick", "#8a8f98"),
    (OURS, "simpletun, plain", "#2f81d0"),
    (SECURE, "simpletun, secure", "#c2528b"),
    (MIXED, "other ends", "#2aa198"),
    (CABLE, "no cable offload", "#9a6fd0"),
    (PEERS, "other programs", "#d08a2f"),
]
ROW, BAR, TOP, LABELS, PANEL, GAP, VALUE = 24, 14, 74, 290, 270, 30, 52


def plot(rounds):
    modes = [mode for mode in rounds.modes if rounds.series(mode, "one")]
    width = LABELS + len(PANELS) * (PANEL + GAP)
    height = TOP + len(modes) * ROW + 12
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">Throughput of one TCP stream and CPU time for each GByte, by program</title>',
        "<style>",
        "text { font: 13px system-ui, sans-serif; fill: #1f2328 }",
        ".panel { font-weight: 600 } .value { font-size: 12px; font-variant-numeric: tabular-nums }",
        ".axis, .range { stroke: #1f2328; fill: none } .axis { opacity: .4 } .range { opacity: .75 }",
        "@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .axis, .range { stroke: #e6edf3 } }",
        "</style>",
    ]
    x = 8
    for group, name, colour in COLOURS:
        if any(mode in group for mode in modes):
            lines.append(f'<rect x="{x}" y="9" width="12" height="12" rx="2" fill="{colour}"/>')
            lines.append(f'<text x="{x + 17}" y="20">{escape(name)}</text>')
            x += 17 + 8 * len(name) + 18
    lines += [
        f'<text x="{LABELS - 10}" y="{TOP + row * ROW + 17}" text-anchor="end">{escape(TITLES[mode])}</text>'
        for row, mode in enumerate(modes)
    ]
    for index, (column, title) in enumerate(PANELS):
        lines += panel(rounds, modes, column, title, LABELS + index * (PANEL + GAP))
    return "\n".join([*lines, "</svg>", ""])


def panel(rounds, modes, column, title, left):
    yield f'<text class="panel" x="{left}" y="{TOP - 14}">{escape(title)}</text>'
    longest = max((max(rounds.series(mode, column), default=0) for mode in modes), default=0) or 1
    scale = (PANEL - VALUE) / longest
    for row, mode in enumerate(modes):
        values = rounds.series(mode, column)
        if not values:
            continue
        middle, y = statistics.median(values), TOP + row * ROW + 5
        colour = next(colour for group, _, colour in COLOURS if mode in group)
        yield f'<rect x="{left}" y="{y}" width="{middle * scale:.1f}" height="{BAR}" rx="2" fill="{colour}"/>'
        low, high, line = left + min(values) * scale, left + max(values) * scale, y + BAR / 2
        yield f'<path class="range" d="M{low:.1f} {line}H{high:.1f}M{low:.1f} {line - 3}v6M{high:.1f} {line - 3}v6"/>'
        text = cell([middle])
        yield f'<text class="value" x="{high + 6:.1f}" y="{y + 11}">{text}</text>'
    yield f'<path class="axis" d="M{left} {TOP}V{TOP + len(modes) * ROW}"/>'


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
    path.write_text(before + block + after)


if __name__ == "__main__":
    main()
