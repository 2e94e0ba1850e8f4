#!/usr/bin/env python3
"""Compares the losses of runs for check.sh.

  losses.py FOLDER PART "what|reference|run|first|last" ...   writes PART.json and PART.note; ends with 1 where a run differs by more
  losses.py FOLDER million-step                               tells the last step of the run "million" in million.note

FOLDER/runs has the runs. Tolerances are relative: "first" for the first step that both runs have, "last" for their last.
"""
import json
import math
import os
import sys


def steps(folder: str, run: str) -> dict[int, dict]:
    """The lines of all steps of a run by their number; a resumed run has some twice, and the later counts."""
    found: dict[int, dict] = {}
    try:
        with open(os.path.join(folder, "runs", run, "metrics.jsonl"), encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if "loss" in row:
                    found[row["step"]] = row
    except (OSError, ValueError):
        pass
    return found


def difference(reference: dict, row: dict) -> float:
    a, b = reference["loss"], row["loss"]
    return abs(a - b) / abs(a) if a and b is not None and math.isfinite(b) else 1e9  # JSON has no infinity


def compare(folder: str, line: str) -> dict:
    what, reference, run, first, last = line.split("|")
    a, b = steps(folder, reference), steps(folder, run)
    row: dict = {"what": what, "run": run, "tolerance_first": float(first), "tolerance_last": float(last), "good": False}
    both = sorted(a.keys() & b.keys())
    if not both or max(a) != max(b):
        row["error"] = f"{reference} has {len(a)} steps and {run} {len(b)}"
        return row
    begin, end = both[0], both[-1]
    row.update(first=begin, last=end, reference_loss=a[end]["loss"], loss=b[end]["loss"],
               difference_first=difference(a[begin], b[begin]), difference_last=difference(a[end], b[end]),
               largest=max(difference(a[step], b[step]) for step in both), same_bits=all(a[step]["loss"] == b[step]["loss"] for step in both),
               skipped=b[end].get("skipped_steps"), seconds=b[end].get("step_seconds"))
    row["good"] = row["difference_first"] <= row["tolerance_first"] and row["difference_last"] <= row["tolerance_last"]
    return row


def say(row: dict) -> str:
    if "error" in row:
        return f"{row['what']}: {row['error']}"
    text = f"{row['what']} {row['difference_first']:.1e} at step {row['first']}, {row['difference_last']:.1e} at {row['last']}"
    return text if row["good"] else text + " TOO MUCH"


def main(folder: str, part: str, lines: list[str]) -> int:
    if part == "million-step":
        last = max(steps(folder, "million").items(), default=(0, {}))[1]
        note = f"step {last.get('step')} of {last.get('tokens_per_second', 0):.0f} tokens/s took {last.get('step_seconds', 0):.2f} s; loss {last.get('loss')}"
        rows: list[dict] = [last]
        part, code = "million", 0 if last else 1
    else:
        rows = [compare(folder, line) for line in lines]
        bad = [row for row in rows if not row["good"]]
        good = [row for row in rows if row["good"]]
        told = [say(row) for row in good]
        if len(good) > 4:
            first, last = (max(row[key] for row in good) for key in ("difference_first", "difference_last"))
            told = [f"{len(good)} of {len(rows)} good, at most {first:.1e} at their first step and {last:.1e} at their last"]
        note = "; ".join([*(say(row) for row in bad), *told])
        code = 1 if bad else 0
        for row in rows:
            print(say(row))
    with open(os.path.join(folder, part + ".json"), "w", encoding="utf-8") as file:
        json.dump({"rows": rows}, file, indent=1)
    with open(os.path.join(folder, part + ".note"), "w", encoding="utf-8") as file:
        file.write(note + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
