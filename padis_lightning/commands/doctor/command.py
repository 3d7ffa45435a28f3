"""The report of all findings, for reading and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from padis_lightning.commands.arguments import Parser
from padis_lightning.commands.doctor import devices, libraries, surroundings, trials
from padis_lightning.commands.doctor.checks import Check, Finding


def _parser() -> Parser:
    parser = Parser(
        prog="python -m padis_lightning doctor",
        description="Try what of this machine works, without a network. Exit code 1 where something is broken.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path("results"), metavar="DIR", help="where results will go")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


def checks(output: Path) -> list[Check]:
    """All there are, in the order of the report."""
    return [*libraries.checks(), *devices.checks(), *trials.checks(), *surroundings.checks(output)]


def conclusion(findings: Sequence[Finding]) -> str:
    """The last line: that all is well, or what is broken and what to do."""
    broken = [finding for finding in findings if finding.state == "broken"]
    if not broken:
        return "everything that is needed works"
    return f"broken: {'; '.join(': '.join(part for part in (f.name, f.remedy) if part) for f in broken)}"


def run(args: Sequence[str]) -> None:
    """The command ``doctor``; a line starts before its check, so that a library that ends the process is named.

    Args:
        args: the arguments after the command's name.

    Raises:
        InputError: an argument is unknown.
        SystemExit: with 1, something is broken.
    """
    options = _parser().parse_args(list(args))
    todo, findings = checks(options.output), []
    width = max(len(check.name) for check in todo)
    for check in todo:
        if not options.json:
            print(f"{check.name:<{width}}  ", end="", flush=True)
        with redirect_stdout(sys.stderr):  # libraries that greet
            finding = check.find()
        findings.append(finding)
        if not options.json:
            print(f"{finding.state:<6}  {finding.text}" + (f"; {finding.remedy}" if finding.remedy else ""))
    last = conclusion(findings)
    print(json.dumps({"findings": [asdict(f) for f in findings], "conclusion": last}, indent=2) if options.json else f"\n{last}")
    if any(finding.state == "broken" for finding in findings):
        raise SystemExit(1)
