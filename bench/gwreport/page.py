# SPDX-License-Identifier: GPL-2.0-or-later
"""The page: for each file what was measured where, the bars, charts and tables."""

import itertools
import xml.etree.ElementTree as ET

from . import charts, units
from .svg import el

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #5a636e;
  --rule: #d8dde3; --good: #1a7f37; --bad: #c21f32; --shade: #f4f6f8;
  --c0: #0b69c7; --c1: #d9630a; --c2: #6f7a86; --c3: #8a3ab9; --c4: #1d8a4a;
  --c5: #c2255c; --c6: #0b8793; --c7: #8a6d00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --rule: #343b43;
    --good: #4cc26b; --bad: #ff7483; --shade: #1d2127;
    --c0: #58a6f5; --c1: #f59a4c; --c2: #97a3af; --c3: #c68cf0; --c4: #56c283;
    --c5: #f57aa6; --c6: #4cc7d3; --c7: #d8b742; } }
body { background: var(--paper); color: var(--ink); margin: 2rem auto; padding: 0 1rem;
  max-width: 60rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.35rem; margin-top: 3rem;
  border-top: 2px solid var(--rule); padding-top: 1rem; }
h3 { font-size: 1.15rem; margin-top: 2.2rem; }
figure { margin: 1.2rem 0 2rem; overflow-x: auto; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; min-width: 40rem; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg text.mark, svg text.value { fill: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; width: 100%; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .87rem ui-monospace, monospace; background: var(--shade);
  padding: 0 .2rem; }
.good { color: var(--good); font-weight: 600; white-space: nowrap; }
.bad { color: var(--bad); font-weight: 600; white-space: nowrap; }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--soft); }
.grid { stroke: var(--rule); stroke-width: 1; }
.whisker { stroke: var(--ink); stroke-width: 1.4; }
.ceiling { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 3 2; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.dashed { stroke-dasharray: 6 4; }
""" + "".join(f".line.c{i} {{ stroke: var(--c{i}); }} .dot.c{i}, .fill.c{i}, "
              f".c{i} .fill {{ fill: var(--c{i}); }}\n" for i in range(8))

# The policy keeps even a browser that finds a link from following it.
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>godwit: measurements</title>
<style>{style}</style>
</head>
"""


# ---- pieces ----

def _table(heads, rows):
    """Heads that begin with # are of columns of numbers."""
    kinds = [{"class": "number"} if head.startswith("#") else {} for head in heads]
    table = el("table", None, el("thead", None, el("tr", None, *(
        el("th", {"scope": "col", **kind}, head.lstrip("#"))
        for head, kind in zip(heads, kinds)))))
    table.append(el("tbody", None, *(
        el("tr", None, *(el("td", kind, cell) for cell, kind in zip(row, kinds)))
        for row in rows)))
    return el("div", {"class": "scroll"}, table)


def _folded(summary, table):
    return el("details", None, el("summary", None, summary), table)


def _figure(caption, picture):
    return el("figure", None, el("figcaption", None, caption), picture)


def _titled(text, labels):
    return f"{text} ({labels})" if labels else text


def _verdict(ok, good, bad):
    return el("span", {"class": "good" if ok else "bad"}, f"✓ {good}" if ok
              else f"✗ {bad}")


def _family(name):
    """"fault latency, idle" is of the family "fault latency"."""
    return name.rpartition(",")[0].strip() or name


def _grouped(items, key):
    """Items by key, both in the order in which they first came."""
    groups = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


# ---- sections ----

def _facts(report):
    machine, quiet = report["machine"], report["quiet"]
    versions = ", ".join(f"{name} {version}"
                         for name, version in report["versions"].items())
    facts = {
        "measured": f"{report['when']} by {report['tool']}",
        "machine": f"{machine['cpu']}, {machine['cpus']:.0f} CPUs, "
                   f"{machine['memory_mib'] / 1024:.1f} GiB",
        "kernel": machine["kernel"],
        "versions": versions,
        "command": el("code", None, report["command"]),
        "seed": report["seed"],
        "host": _verdict(quiet["ok"], "quiet", f"not quiet: {quiet['why']}"),
    }
    return el("dl", None, *itertools.chain.from_iterable(
        (el("dt", None, name), el("dd", None, value)) for name, value in facts.items()))


def _bars(bars):
    short = sum(not bar["ok"] for bar in bars)
    rows = [[el("code", None, bar["name"]), bar["what"], bar["bar"],
             "–" if bar["value"] is None else units.three_digits(bar["value"]),
             _verdict(bar["ok"], "ok", "short"), bar["detail"]] for bar in bars]
    said = "All are reached." if not short else f"{short} of {len(bars)} fall short."
    return [el("h3", None, "Bars"), el("p", None, said),
            _table(["name", "what", "#bar", "#value", "", "figures"], rows)]


def _results_table(results):
    rows = []
    for result in results:
        unit, ceiling = result["unit"], result["ceiling"]
        rows.append([result["figure"], charts.labels_text(result["labels"]),
                     *(units.text(result[name], unit)
                       for name in ("median", "min", "max")),
                     str(len(result["runs"])),
                     f"{ceiling['what']}: {units.text(ceiling['median'], unit)}"
                     if ceiling else "–",
                     units.three_digits(ceiling["ratio"])
                     if ceiling and ceiling["ratio"] is not None else "–"])
    return _table(["figure", "of", "#median", "#lowest", "#highest", "#runs", "ceiling",
                   "#ratio"], rows)


def _results(results):
    sections = []
    for subject, of_subject in _grouped(results, lambda r: r["subject"]).items():
        sections.append(el("h3", None, subject))
        for (figure, *_), panel in _grouped(
                of_subject, lambda r: (r["figure"], r["unit"], r["better"])).items():
            shared = charts.shared_text(panel)
            sections.append(_figure(_titled(figure, shared), charts.comparison(panel)))
        sections.append(_folded("The same as a table", _results_table(of_subject)))
    return sections


def _lines(items, drawing, caption):
    """Charts of families of lines, each with as many as can be told apart."""
    sections = []
    for (family, *_), lines in _grouped(items, lambda i: (
            _family(i["name"]), i["unit"], i["labels"].get("subject"))).items():
        for at in range(0, len(lines), charts.LINES_MAX):
            part = lines[at:at + charts.LINES_MAX]
            shared = charts.shared_text(part)
            sections.append(_figure(_titled(f"{family}{caption}", shared),
                                    drawing(family, part)))
    return sections


def _histograms_table(histograms):
    columns = ("mean", "p50", "p90", "p99", "p99.9", "max")
    return _table(["name", "of", "#count", *(f"#{name}" for name in columns)],
                  [[h["name"], charts.labels_text(h["labels"]), f"{h['count']:,.0f}",
                    *(units.text(h[name], h["unit"]) for name in columns)]
                   for h in histograms])


def _file(path, report, number):
    section = el("section", {"id": f"file{number}"}, el("h2", None, path),
                 _facts(report))
    series = [one for one in report["series"] if one["points"]]
    histograms = [one for one in report["histograms"] if one["count"]]
    if report["bars"]:
        section.extend(_bars(report["bars"]))
    section.extend(_results(report["results"]))
    if series:
        section.append(el("h3", None, "Over time"))
        section.extend(_lines(series, charts.over_time, " over time"))
    if report["histograms"]:
        section.append(el("h3", None, "Distributions"))
        section.extend(_lines(histograms, charts.quantiles, ""))
        section.append(_histograms_table(report["histograms"]))
    return section


def render(reports):
    """The page as text, of (path, report) in order."""
    body = el("body", None, el("h1", None, "godwit: measurements"))
    body.append(el("p", None, "Ratios hold within one file; absolute figures are of "
                              "one machine in one hour."))
    if len(reports) > 1:
        body.append(el("nav", None, el("ul", None, *(
            el("li", None, el("a", {"href": f"#file{i}"}, path), f", {report['tool']}, "
                                                               f"{report['when']}")
            for i, (path, report) in enumerate(reports)))))
    for i, (path, report) in enumerate(reports):
        body.append(_file(path, report, i))
    text = ET.tostring(body, encoding="unicode", short_empty_elements=False)
    return HEAD.format(style=STYLE) + text + "\n</html>\n"
