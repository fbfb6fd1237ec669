"""Says how much of the library the tests run, and draws the badge that the docs show: `make coverage`.

`python tests/covered.py COVERAGE.json BADGE.svg` exits with 1 below 90 %. It lists the modules as well, and a badge of eight
lines needs no package.
"""

import json
import sys
from pathlib import Path

LEAST = 90
BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="112" height="20" role="img" aria-label="coverage: {percent} %">
<title>coverage: {percent} % of the library's lines are run by its tests</title>
<rect width="66" height="20" rx="3" fill="#4a5159"/><rect x="62" width="50" height="20" rx="3" fill="{color}"/><rect x="62" width="6" height="20" fill="{color}"/>
<g fill="#ffffff" font-family="system-ui, Verdana, sans-serif" font-size="11" text-anchor="middle"><text x="31" y="14">coverage</text><text x="87" y="14">{percent} %</text></g>
</svg>
"""


def main(report: Path, badge: Path) -> int:
    told = json.loads(report.read_text(encoding="utf-8"))
    percent = int(told["totals"]["percent_covered"])
    for name, one in sorted(told["files"].items(), key=lambda f: f[1]["summary"]["percent_covered"]):
        print(f"{one['summary']['percent_covered']:6.1f} %  {name}")
    badge.write_text(BADGE.format(percent=percent, color="#1a7f37" if percent >= LEAST else "#a8321f"), encoding="utf-8")
    print(f"{percent} % in all, written to {badge}")
    return int(percent < LEAST)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
