"""One page that opens anywhere and needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import Any

SAMPLED = ["deviation", "coverage"]  # columns where there are several samples

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1a1a1a;background:#fff}
table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid #005ab5}
figure{margin:1.5rem 0;overflow-x:auto}figure img{width:100%;min-width:40rem;image-rendering:pixelated}
figcaption{color:#444}pre{background:#f4f4f4;padding:1rem;overflow-x:auto}
"""

SORT = """
document.querySelectorAll('table.sort th button').forEach((button,column)=>button.onclick=()=>{
  const body=button.closest('table').tBodies[0], down=button.dataset.down!=='1';
  button.dataset.down=down?'1':'';
  const key=row=>{const text=row.cells[column].textContent;return isNaN(text)?text:Number(text)};
  [...body.rows].sort((a,b)=>(key(a)>key(b)?1:-1)*(down?-1:1)).forEach(row=>body.append(row));
});
"""


def _number(value: object) -> str:
    if value is None:
        return "&ndash;"
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))


def _table(header: list[str], rows: list[list[Any]], sortable: bool = False) -> str:
    cells = (f"<button>{html.escape(h)}</button>" if sortable else html.escape(h) for h in header)
    head = "".join(f"<th>{cell}</th>" for cell in cells)
    body = "".join("<tr>" + "".join(f"<td>{_number(v)}</td>" for v in row) + "</tr>" for row in rows)
    style = ' class="sort"' if sortable else ""
    return f"<table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def report_page(folder: Path, rows: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    """Summary, scores and pictures of one result folder as a self-contained HTML page."""
    methods = [*summary["baselines"].items(), (summary["solver"], summary)]
    keys = ["psnr", "ssim", "residual", "seconds_per_image", "evaluations"]
    overview = _table(
        ["method", "PSNR (dB)", "SSIM", "residual", "s/image", "evaluations"],
        [[name, *(means[key] for key in keys)] for name, means in methods],
    )
    gains = "".join(
        f"<p>{html.escape(summary['solver'])} over {html.escape(name)}: {gain['psnr']:+.2f} dB "
        f"(95 % interval {gain['interval'][0]:+.2f} to {gain['interval'][1]:+.2f}).</p>"
        for name, gain in summary["gain"].items()
    )
    columns = ["name", "psnr", "ssim", "residual", "seconds", *(k for k in SAMPLED if k in rows[0])]
    if summary.get("coverage") is not None:
        gains += f"<p>90 % intervals of the samples hold {100 * summary['coverage']:.1f} % of the truth.</p>"
    details = _table(columns, [[row[c] for c in columns] for row in rows], sortable=True)
    figures = "".join(_figure(folder / "images" / f"{row['name']}.png", row) for row in rows)
    provenance = {k: v for k, v in summary.items() if k not in ("baselines", "gain", "intervals")}
    config = folder / "config.yaml"
    settings = config.read_text(encoding="utf-8") if config.is_file() else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(folder.name)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(folder.name)}</h1><p>{summary['n']} images of {summary['groups']} groups; intervals are "
        f"95 % bootstrap intervals over groups.</p>{overview}{gains}<h2>Images</h2>{details}{figures}"
        f"<h2>How it came about</h2><pre>{html.escape(json.dumps(provenance, indent=2))}</pre>"
        f"<pre>{html.escape(settings)}</pre><script>{SORT}</script></body></html>\n"
    )


def _figure(path: Path, row: dict[str, Any]) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    quality = "" if row["psnr"] is None else f", {row['psnr']:.2f} dB"
    name = html.escape(row["name"])
    return (
        f'<figure><img loading="lazy" alt="reconstruction of {name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}{quality}</figcaption></figure>"
    )
