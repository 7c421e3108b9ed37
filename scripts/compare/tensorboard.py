"""Reads a folder of event files with TensorBoard's own reader and lists what is in it.

    python scripts/compare/tensorboard.py FOLDER [--expect TAG]… [--json]

Exit status 1 when an expected tag is missing or nothing is there.
"""

import argparse
import json
import sys
from pathlib import Path

# This file's folder comes first on the path, and the file has the package's name.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KINDS = ["scalars", "images", "histograms", "tensors"]


def read(folder):
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(KINDS, 0))
    events.Reload()
    rows = []
    for kind in KINDS:
        load = {"scalars": events.Scalars, "images": events.Images, "histograms": events.Histograms, "tensors": events.Tensors}
        for tag in sorted(events.Tags()[kind]):
            points = load[kind](tag)
            row = {"kind": kind, "tag": tag, "count": len(points), "first": points[0].step, "last": points[-1].step}
            if kind == "scalars":
                row |= {"first_value": points[0].value, "last_value": points[-1].value}
            if kind == "images":
                row |= {"width": points[-1].width, "height": points[-1].height}
            rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--expect", action="append", default=[], help="a tag that must be there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = read(arguments.folder)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        for row in rows:
            values = f"  {row['first_value']:.6g} … {row['last_value']:.6g}" if "first_value" in row else ""
            size = f"  {row['width']}×{row['height']}" if "width" in row else ""
            print(f"{row['kind']:<10} {row['tag']:<32} {row['count']:>6} points, steps {row['first']} to {row['last']}{values}{size}")
    missing = sorted(set(arguments.expect) - {row["tag"] for row in rows})
    for tag in missing:
        print(f"error: no tag `{tag}` in {arguments.folder}", file=sys.stderr)
    if not rows:
        print(f"error: no events in {arguments.folder}", file=sys.stderr)
    return int(bool(missing) or not rows)


if __name__ == "__main__":
    sys.exit(main())
